"""A bundle as a node: the detector is loaded and checked before the first association is taken."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medprompt.bundles.load import load_bundle
from medprompt.bundles.signing import check_signature
from medprompt.core.interrupt import ends_heard_by
from medprompt.runtime.detector import Detector
from medprompt.runtime.dicom_node.analyse import analysis_with
from medprompt.runtime.dicom_node.audit import Audit
from medprompt.runtime.dicom_node.config import NodeConfig
from medprompt.runtime.dicom_node.node import Node
from medprompt.runtime.dicom_node.queue import Queue


def listen(
    bundle: Path | str,
    config: NodeConfig,
    *,
    ready: Callable[[int], Any] = lambda port: None,
    key: Path | None = None,
    self_test: bool = True,
    **options: Any,
) -> None:
    """Receive, detect and deliver until SIGTERM or SIGINT.

    Args:
        bundle: The bundle's folder.
        config: The node's configuration.
        ready: Told the port that is listened on.
        key: Public key (PEM): refuse a bundle that its holder did not sign.
        self_test: Run the bundle's golden images on the engine first.
        options: Of ``Detector.load``: ``prompts``, ``device``, ``threads``, ``threshold``.

    Raises:
        InputError: The queue is another's, or the address cannot be listened on.
        BundleError, BankError, EngineError, ParityError: See ``Detector.load``.
    """
    loaded = load_bundle(bundle)
    if key:
        check_signature(loaded, key)
    with Queue(config.queue) as queue, Detector.load(loaded, self_test=self_test or None, **options) as detector:
        queue.bind(means_of(detector), ", ".join(detector.bank.labels))
        with Audit(config.queue / "audit.jsonl") as audit:
            node = Node(config, queue, analysis_with(detector, config.frames), audit)
            # In a thread: the handler may come between two lines of one that holds the node's lock.
            with ends_heard_by(lambda *_: threading.Thread(target=node.stop, daemon=True).start()):
                node.run(ready)


def means_of(detector: Detector) -> str:
    """What a queue's work is done with: bundle, prompts and thresholds."""
    return json.dumps([detector.bundle.sha256, detector.bank.content_hash(), list(detector.thresholds)])
