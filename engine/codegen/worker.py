"""A process that compiles kernels: one request line in, one answer line out.

llvmlite holds one lock around LLVM, so threads of one process cannot compile side by side;
processes can. A request is a JSON object ``{"family", "canonical", "isa"}``; the answer is
``{"code": base64}`` or ``{"error": text}``. Standard output carries answers alone.
"""

from __future__ import annotations

import base64
import json
import sys

from engine.codegen.emit import emit
from engine.codegen.kernel import KernelSpec
from engine.codegen.target import select


def main() -> None:
    """Serve requests until standard input closes."""
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr
    for line in sys.stdin.buffer:
        request = json.loads(line)
        spec = KernelSpec(request["family"], request["canonical"])
        try:
            code = emit(spec, select(request["isa"]))
            answer = {"code": base64.b64encode(code).decode()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
