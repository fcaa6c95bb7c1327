"""DICOM in, structured reports out: python dicom_report.py polyp.bundle study/ reports/."""

import sys
from pathlib import Path

import medprompt
from medprompt.reports.files import read_report, write_reports

bundle, study, folder = sys.argv[1:]
run = medprompt.infer(bundle, study)
reports = write_reports(run, Path(folder))
for path in reports.written:
    for finding in read_report(path).findings:
        print(f"{path.name}: {finding.tracking_identifier}  {finding.score:.2f}  {finding.box_xyxy}")
for item, reason in reports.missing:
    print(f"{item.name} was analysed and has no report: {reason}")
for item in run.failed:
    print(f"{item.name} was not analysed and has no report: {item.status} {item.code or ''}")
sys.exit(1 if run.failed or reports.missing else 0)
