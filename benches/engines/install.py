"""Installs the engines that scripts/compare-engines runs, and makes the checkpoints that they run on."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

PROGRAMS = pathlib.Path(__file__).resolve().parent
ROOT = PROGRAMS.parent.parent
VERSIONS = {"transformers": "5.24.0", "llama.cpp": "0.3.36", "mistral.rs": "0.8.1"}
# Package and version in each environment; llama.cpp's is that of llama-cpp-python, which carries its source.
PACKAGES = {
    "tools": {"numpy": "2.4.6", "gguf": "0.19.0", "matplotlib": "3.11.2"},
    "transformers": {"torch": "2.15.0", "transformers": VERSIONS["transformers"]},
    "llama": {"llama-cpp-python": VERSIONS["llama.cpp"]},
}


class Fault(Exception):
    """What goes into the table instead of a figure."""


def tail(path, lines=6):
    """The last lines, without colours and without the frames of a backtrace."""
    text = re.sub(r"\x1b\[[\d;]*m", "", path.read_text(errors="replace"))
    frame = re.compile(r"\s*(\d+: |at )|\s*$")
    return "\n".join([line[:300] for line in text.splitlines() if not frame.match(line)][-lines:])


def execute(command, log, env=None, timeout=None):
    with open(log, "a") as file:
        file.write(f"$ {' '.join(map(str, command))}\n")
        file.flush()
        try:
            done = subprocess.run(list(map(str, command)), stdout=file, stderr=file, env=env, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Fault(f"ran past {timeout} s: {command[0]}") from None
        except OSError as error:
            raise Fault(f"cannot be run: {error}") from None
    if done.returncode:
        raise Fault(f"exit code {done.returncode}: {tail(log)}")


class Install:
    def __init__(self, folder, logs):
        self.folder, self.log = folder, logs / "install.log"

    def python(self, name):
        return self.folder / name / "bin/python"

    def environment(self, name, packages, pip_options=(), first=(), env=None):
        """A virtual environment with these packages; made only where one is missing or of another version."""
        wanted = PACKAGES[name]
        ask = f"import importlib.metadata as m; print(*(m.version(p).split('+')[0] for p in {list(wanted)}))"
        if self.python(name).exists():
            found = subprocess.run([self.python(name), "-c", ask], capture_output=True, text=True).stdout.split()
            if found == list(wanted.values()):
                return
        print(f"installing {' '.join(packages)} into {self.folder / name}", flush=True)
        execute([sys.executable, "-m", "venv", self.folder / name], self.log)
        pip = [self.python(name), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        if first:
            execute([*pip, *first], self.log)
        execute([*pip, *pip_options, *packages], self.log, env)

    def tools(self):
        self.environment("tools", [f"{name}=={version}" for name, version in PACKAGES["tools"].items()])

    def transformers(self):
        versions = PACKAGES["transformers"]
        packages = [f"torch=={versions['torch']}", f"transformers[serving]=={versions['transformers']}"]
        self.environment("transformers", packages)

    def llama_cpp(self):
        package = "llama-cpp-python"
        path = f"{self.folder / 'llama/bin'}:{os.environ['PATH']}"
        env = dict(os.environ, PATH=path, CMAKE_ARGS="-DGGML_NATIVE=ON")
        packages = [f"{package}=={VERSIONS['llama.cpp']}"]
        self.environment("llama", packages, ["--no-binary", package], ["cmake", "ninja"], env)

    def mistral_rs(self):
        program, version = self.folder / "mistralrs/bin/mistralrs", VERSIONS["mistral.rs"]
        if program.exists() and version in subprocess.run([program, "--version"], capture_output=True, text=True).stdout:
            return
        print(f"building mistralrs-cli {version}: an hour on two cores", flush=True)
        env = dict(os.environ, CARGO_TARGET_DIR=str(self.folder / "target"), RUSTFLAGS="-C target-cpu=native")
        root = self.folder / "mistralrs"
        execute(["cargo", "install", "--locked", "--root", root, f"mistralrs-cli@{version}"], self.log, env)

    def model(self, name):
        """The Hugging Face folder of a model."""
        folder, tokenizer = self.folder / "models" / name, self.folder / "models/tokenizer.json"
        if name == "spark":
            # Without an end: not every server can be told to ignore it.
            shutil.copytree(ROOT / "models/spark", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("train"))
            for path in [folder / "config.json", folder / "generation_config.json"]:
                fields = json.loads(path.read_text())
                fields.pop("eos_token_id", None)
                path.write_text(json.dumps(fields, indent=2))
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not tokenizer.exists():
            execute([sys.executable, ROOT / "benches/large_tokenizer.py", tokenizer], self.log)
        if not (folder / "model.safetensors").exists():
            config = ROOT / "benches/models" / name / "config.json"
            execute([self.python("tools"), PROGRAMS / "random_checkpoint.py", config, tokenizer, folder], self.log)
        return folder

    def gguf(self, folder, form):
        path = self.folder / "models" / f"{folder.name}-{form}.gguf"
        if not path.exists():
            part = path.with_suffix(".part")
            execute([self.python("tools"), PROGRAMS / "gguf_of.py", folder, form, part], self.log)
            part.rename(path)
        return path
