#!/usr/bin/env python3
"""Makes libraries to link against in place of NVIDIA's, which a machine without a GPU lacks.

Each has the soname of the real one and every function that cudarc declares of it. Called, they say
that there is no device.

usage: cuda_stubs.py FOLDER
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

# cudarc's module, the soname, what a function returns.
LIBRARIES = [
    ("driver", "libcuda.so.1", 100),  # CUDA_ERROR_NO_DEVICE
    ("cublas", "libcublas.so.13", 1),
    ("cublaslt", "libcublasLt.so.13", 1),
    ("curand", "libcurand.so.10", 203),
    ("nvrtc", "libnvrtc.so.13", 1),
]


def cudarc():
    """The folder of the version that Cargo.lock names."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", "cuda"]
    packages = json.loads(subprocess.check_output(command))["packages"]
    found = [package for package in packages if package["name"] == "cudarc"]
    return pathlib.Path(found[0]["manifest_path"]).parent


def main():
    folder = pathlib.Path(sys.argv[1])
    source = cudarc() / "src"
    for module, soname, code in LIBRARIES:
        text = (source / module / "sys" / "mod.rs").read_text()
        names = sorted(set(re.findall(r"^\s+fn (\w+)\(", text, re.MULTILINE)))
        body = "".join(f"int {name}(void) {{ return {code}; }}\n" for name in names)
        with tempfile.NamedTemporaryFile("w", suffix=".c") as c:
            c.write(body)
            c.flush()
            flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{soname}"]
            subprocess.check_call(["cc", *flags, "-o", folder / soname, c.name])
        link = folder / (soname.split(".so")[0] + ".so")
        link.unlink(missing_ok=True)
        link.symlink_to(soname)


if __name__ == "__main__":
    main()
