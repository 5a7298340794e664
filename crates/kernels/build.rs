//! With the feature `cuda`: compiles each `kernel.cu` to a fat binary that the op embeds.
//!
//! `SCONCE_NVCC`, `NVCC`, `$CUDA_HOME/bin/nvcc` or `nvcc` in `PATH` compiles. `SCONCE_CUDA_ARCHS` names
//! what for: `90a` is machine code for sm_90a, `80-ptx` portable code that newer GPUs translate when
//! they load it. Without the feature nothing is done and nothing is needed.

#![expect(clippy::disallowed_methods, reason = "a build script is configured by its environment")]

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Ampere to Blackwell; portable code of the oldest for everything else that is newer.
const DEFAULT_ARCHS: &str = "80-ptx,80,89,90a,100,120";

const FLAGS: &[&str] = &["-std=c++17", "-O3", "-fatbin", "-Xfatbin=-compress-all", "-Xptxas=-v"];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for name in ["SCONCE_NVCC", "NVCC", "CUDA_HOME", "PATH", "SCONCE_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=src");

    let compiler = Compiler::find()?;
    let mut folders = entries(Path::new("src"))?;
    folders.retain(|path| path.is_dir());
    // Kernels include what others are made of.
    let mut headers = Vec::new();
    for folder in &folders {
        headers.extend(sources(folder, "cuh")?);
    }
    for folder in folders {
        if folder.join("kernel.cu").is_file() {
            let inputs = [&headers[..], &sources(&folder, "cu")?].concat();
            compiler.compile(&folder, &inputs)?;
        }
    }
    Ok(())
}

struct Compiler {
    nvcc: PathBuf,
    version: String,
    archs: Vec<String>,
    out: PathBuf,
    num_threads: String,
}

impl Compiler {
    fn find() -> Result<Self> {
        let named = env::var_os("SCONCE_NVCC").or_else(|| env::var_os("NVCC")).map(PathBuf::from);
        let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
        let nvcc = named.or(home.filter(|path| path.is_file())).unwrap_or_else(|| "nvcc".into());
        let ask = |flag: &str| {
            let output = Command::new(&nvcc).arg(flag).output().map_err(|error| {
                format!(
                    "{}: {error}: the feature `cuda` needs nvcc of the CUDA toolkit; set \
                     SCONCE_NVCC or CUDA_HOME, or put it in PATH",
                    nvcc.display()
                )
            })?;
            Ok::<_, Box<dyn std::error::Error>>(String::from_utf8(output.stdout)?)
        };
        let version = ask("--version")?;
        let known = ask("--list-gpu-code")?;
        let archs = if let Ok(archs) = env::var("SCONCE_CUDA_ARCHS") {
            split(&archs)
        } else {
            let mut archs = split(DEFAULT_ARCHS);
            archs.retain(|arch| knows(&known, arch));
            archs
        };
        if archs.is_empty() {
            return Err("SCONCE_CUDA_ARCHS names nothing; an example is 90a,80-ptx".into());
        }
        let out = PathBuf::from(env::var("OUT_DIR")?);
        let num_threads = env::var("NUM_JOBS").unwrap_or_else(|_| "1".to_owned());
        Ok(Self { nvcc, version, archs, out, num_threads })
    }

    /// Writes `OUT_DIR/<op>.fatbin`, unless it was made of the same inputs.
    fn compile(&self, folder: &Path, inputs: &[PathBuf]) -> Result<()> {
        let op = folder.file_name().ok_or("an op's folder has a name")?.to_string_lossy();
        let fatbin = self.out.join(format!("{op}.fatbin"));
        let stamp = self.out.join(format!("{op}.inputs"));
        let mut hasher = DefaultHasher::new();
        (&self.nvcc, &self.version, &self.archs, FLAGS).hash(&mut hasher);
        for input in inputs {
            fs::read(input)?.hash(&mut hasher);
        }
        let inputs = format!("{:016x}", hasher.finish());
        if fatbin.is_file() && fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == inputs) {
            return Ok(());
        }
        let mut command = Command::new(&self.nvcc);
        command.args(FLAGS).args(["--threads", &self.num_threads]);
        for arch in &self.archs {
            command.arg("-gencode").arg(match arch.strip_suffix("-ptx") {
                Some(arch) => format!("arch=compute_{arch},code=compute_{arch}"),
                None => format!("arch=compute_{arch},code=sm_{arch}"),
            });
        }
        command.arg(folder.join("kernel.cu")).arg("-o").arg(&fatbin);
        let output = command.output()?;
        let report = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !fatbin.is_file() {
            return Err(format!("{command:?}: {}\n{report}", output.status).into());
        }
        for line in report.lines().filter(|line| spills(line)) {
            println!("cargo:warning={op}: {}", line.trim());
        }
        fs::write(stamp, inputs)?;
        Ok(())
    }
}

/// Whether a line of ptxas tells of registers that went to memory.
fn spills(line: &str) -> bool {
    line.contains("spill stores") && !line.contains(" 0 bytes spill stores, 0 bytes spill loads")
}

fn split(archs: &str) -> Vec<String> {
    archs.split(',').map(str::trim).filter(|arch| !arch.is_empty()).map(str::to_owned).collect()
}

/// nvcc lists `sm_90`, and with it has `sm_90a` and `compute_90`.
fn knows(listed: &str, arch: &str) -> bool {
    let number = arch.trim_end_matches(|c: char| !c.is_ascii_digit());
    listed.lines().any(|line| line.trim() == format!("sm_{number}"))
}

/// The files of a folder that end so.
fn sources(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}
