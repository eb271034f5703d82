"""How long a command goes on after Ctrl-C: `python tests/measure/interrupts.py QSTORE BF16 INT8 [MOMENTS]`.

Runs every long command on the two folders and interrupts it at moments spread over the time that it takes. Prints the
longest time from the signal to the end, and fails if something is left behind. Not a test: times depend on the machine.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    qstore, bf16, int8 = (str(Path(argument).resolve()) for argument in sys.argv[1:4])
    moments = int(sys.argv[4]) if len(sys.argv) > 4 else 12
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        root = Path(folder)
        run = [qstore, "-q"]
        subprocess.run([*run, "pack", f"bf16={bf16}", f"int8={int8}", "-o", str(root / "pair")], check=True)
        subprocess.run([*run, "pack", f"bf16={bf16}", "-o", str(root / "high")], check=True)
        pair, high, out = str(root / "pair"), str(root / "high"), root / "out"
        commands = {
            "pack": ["pack", f"bf16={bf16}", f"int8={int8}", "-o", str(out)],
            "add": ["add", high, f"int8={int8}"],
            "remove": ["remove", pair, "int8"],
            "unpack": ["unpack", pair, "bf16", "-o", str(out)],
            "verify": ["verify", pair],
            "load": ["load", pair, "bf16"],
            "inspect": ["inspect", pair, "--tensors"],
            "quantize": ["quantize", bf16, "--to", "int8", "-o", str(out)],
            "analyze": ["analyze", f"bf16={bf16}", f"int8={int8}"],
        }
        print(f"{'command':10} {'takes':>8} {'longest after Ctrl-C':>22}")
        for name, arguments in commands.items():
            shutil.copytree(high, root / "high-kept")
            shutil.copytree(pair, root / "pair-kept")
            whole, slowest = 0.0, 0.0
            for moment in range(moments + 1):
                began = time.monotonic()
                child = subprocess.Popen([*run, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                if moment > 0:
                    time.sleep(whole * (moment - 0.5) / moments)
                    interrupted = time.monotonic()
                    child.send_signal(signal.SIGINT)
                    if child.wait() not in (0, 130, -signal.SIGINT):
                        sys.exit(f"{name}: exit status {child.returncode}")
                    slowest = max(slowest, time.monotonic() - interrupted)
                    if child.returncode != 0 and out.exists():
                        sys.exit(f"{name}: {out} is left behind")
                else:
                    child.wait()
                    whole = time.monotonic() - began
                shutil.rmtree(out, ignore_errors=True)
                for store in ("high", "pair"):
                    shutil.rmtree(root / store)
                    shutil.copytree(root / f"{store}-kept", root / store)
                if [entry.name for entry in root.iterdir() if "staging" in entry.name]:
                    sys.exit(f"{name}: a staging folder is left behind")
            print(f"{name:10} {whole:7.2f}s {slowest:21.2f}s", flush=True)
            for store in ("high-kept", "pair-kept"):
                shutil.rmtree(root / store)


if __name__ == "__main__":
    main()
