#!/usr/bin/env bash
# In an environment with the [cpu] extra alone: torch, transformers and onnx are absent, and a bundle still serves.
set -euo pipefail
clean=$1 bundle=$2
for absent in torch transformers onnx scipy; do
  if "$clean/bin/python" -c "import $absent" 2>/dev/null; then
    echo "$absent is installed in the clean environment" >&2
    exit 1
  fi
done
medprompt="$clean/bin/medprompt"
"$medprompt" verify "$bundle"
image=$(find medprompt/demo/images -name '*.jpg' | sort | head -n 1)
"$medprompt" infer "$bundle" "$image" --out "$bundle.results.json" --json > "$bundle.stdout.json"
"$clean/bin/python" - "$bundle.results.json" <<'PY'
import json, sys
items = json.load(open(sys.argv[1]))["items"]
assert items[0]["status"] == "OK" and items[0]["detections"], items
print(f"{len(items[0]['detections'])} detections without torch")
PY
# Without onnxruntime the engine is refused by name, with the extra to install.
"$clean/bin/pip" uninstall -y onnxruntime openvino
set +e
message=$("$medprompt" infer "$bundle" "$image" 2>&1 >/dev/null)
code=$?
set -e
[ "$code" = 2 ] && grep -q "pip install .onnxruntime" <<<"$message" || { echo "exit $code: $message" >&2; exit 1; }
echo "refused without an engine: exit $code"
