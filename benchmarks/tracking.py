"""What records and MLflow cost of a study's time.

    OMP_NUM_THREADS=1 python benchmarks/tracking.py [results/demo]

From a finished study: all its records are tracked into a store that does not exist yet, in a process of its own, and
then once more, when there is nothing to do. The time that jobs spent on digests and records stands in the records. The
study's wall time is that of its jobs together, pauses left out. On a machine that does other things too, the processor
seconds tell more than the seconds. The last lines are for machines to read.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from _provenance.records import records  # noqa: E402 - no package


def main() -> None:
    """Print every figure, those for machines last."""
    results = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "results/demo").resolve()
    # The job that tracks is what is measured here.
    found = [record for record in records(results).read.values() if record["stage"] != "tracking"]
    if not found:
        sys.exit(f"{results} holds no records; run the study first, or name another folder: results/STUDY")
    wall = together(found)
    recording = sum(record["recording_seconds"] for record in found)
    with tempfile.TemporaryDirectory() as folder:
        (cold, work), (again, _) = (track(results, Path(folder)) for _ in range(2))
    print(f"{results}: {len(found)} records, jobs at work for {wall:.0f} s")
    print(
        f"tracking into a new store {cold:.1f} s, {work:.1f} of them on the processor, again with nothing to do "
        f"{again:.1f} s, imports included"
    )
    print(f"records and digests in jobs {recording:.1f} s")
    if any(record["record_version"] < 2 for record in found):
        print("some records are of version 1, which did not measure that time")
    print(f"tracking_seconds {cold:.2f}")
    print(f"tracking_processor_seconds {work:.2f}")
    print(f"recording_seconds {recording:.2f}")
    print(f"wall_seconds {wall:.2f}")
    print(f"seconds_per_record {cold / len(found):.3f}")
    print(f"tracking_again_seconds {again:.2f}")
    print(f"tracking_processor_over_wall {(work + recording) / wall:.3f}")
    print(f"tracking_over_wall {(cold + recording) / wall:.3f}")


def together(found: Iterable[Mapping[str, Any]]) -> float:
    """Seconds in which at least one of the jobs was at work."""
    spans = sorted((datetime.fromisoformat(r["started"]), datetime.fromisoformat(r["ended"])) for r in found)
    total, until = 0.0, spans[0][0]
    for started, ended in spans:
        if ended > until:
            total += (ended - max(started, until)).total_seconds()
            until = ended
    return total


def track(results: Path, folder: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, of a process that tracks the study into a store in `folder`."""
    command = [sys.executable, ROOT / "scripts/track.py", "--results", results]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--uri", f"sqlite:///{folder}/mlflow.db"], check=True, stdout=2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, work


if __name__ == "__main__":
    main()
