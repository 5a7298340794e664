//! Compiles every `kernel.cu` of `crates/kernels` with the host's compiler, against the shim.

#![expect(clippy::disallowed_methods, reason = "a build script is configured by its environment")]

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let shim = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("shim");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let kernels = shim.join("../../kernels/src").canonicalize()?;
    println!("cargo:rerun-if-changed={}", shim.display());
    println!("cargo:rerun-if-changed={}", kernels.display());

    // Kernels include what others are made of.
    let mut shared = sources(&shim)?;
    for folder in folders(&kernels)? {
        shared.extend(
            sources(&folder)?.into_iter().filter(|file| file.extension() != Some("cu".as_ref())),
        );
    }
    let mut objects = Vec::new();
    let mut anchors = Vec::new();
    for folder in [folders(&kernels)?, vec![shim.join("faults"), shim.join("primitives")]].concat()
    {
        if !folder.join("kernel.cu").is_file() {
            continue;
        }
        let name = folder.file_name().expect("a folder").to_string_lossy().into_owned();
        let unit = unit(&folder, &name);
        objects.push(compile(&name, &unit, &[&shared[..], &sources(&folder)?].concat(), &out)?);
        anchors.push(name);
    }
    for file in sources(&shim)?.iter().filter(|file| file.extension() == Some("cpp".as_ref())) {
        let name = file.file_stem().expect("a file").to_string_lossy().into_owned();
        let unit = format!("#include \"{}\"\n", file.display());
        objects.push(compile(&name, &unit, &shared, &out)?);
    }
    // What links the files: each is named, and brings its kernels along.
    let declare = |name: &String| format!("extern \"C\" const char kernels_of_{name};\n");
    let declarations: Vec<_> = anchors.iter().map(declare).collect();
    let addresses: Vec<_> = anchors.iter().map(|name| format!("&kernels_of_{name}, ")).collect();
    let unit = format!(
        "{}extern \"C\" const char* const sconce_kernel_files[] = {{{}nullptr}};\n",
        declarations.concat(),
        addresses.concat()
    );
    objects.push(compile("files", &unit, &[], &out)?);
    cc::Build::new().cpp(true).objects(objects).cargo_warnings(false).compile("sconce_cuda_host");
    Ok(())
}

/// One translation unit: each in a namespace of its own, since on the device each is a module.
fn unit(folder: &Path, name: &str) -> String {
    let kernel = folder.join("kernel.cu");
    format!(
        "#include \"device.cuh\"\nnamespace {name} {{\n#include \"{}\"\n}}\n\
         extern \"C\" const char kernels_of_{name} = 0;\n",
        kernel.display()
    )
}

/// Compiles unless the same text was compiled before, also for another build of the same profile: clippy's and that
/// of the tests each run this script. `inputs` are the files it includes.
fn compile(name: &str, unit: &str, inputs: &[PathBuf], out: &Path) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (name, unit, FLAGS, OPT_LEVEL, env::var("CXX").ok()).hash(&mut hasher);
    for input in inputs {
        fs::read(input)?.hash(&mut hasher);
    }
    // OUT_DIR is `PROFILE/build/cuda-host-HASH/out`.
    let shared = out.ancestors().nth(3).expect("cargo's folders").join("cuda-host-objects");
    fs::create_dir_all(&shared)?;
    let object = shared.join(format!("{name}-{:016x}.o", hasher.finish()));
    if object.is_file() {
        return Ok(object);
    }
    let file = out.join(format!("{name}.cpp"));
    fs::write(&file, unit)?;
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(OPT_LEVEL).debug(false).define("SCONCE_HOST", None);
    build.warnings(true).extra_warnings(true).include("shim").include("../kernels/src/cuda");
    for flag in FLAGS {
        build.flag(flag);
    }
    let compiled = build.file(&file).compile_intermediates();
    // Whole or not at all, whatever else runs.
    fs::rename(&compiled[0], &object)?;
    Ok(object)
}

const OPT_LEVEL: u32 = 1;

/// No fused multiply-adds that the code does not name; what is undefined traps, by which the launch
/// fails with a message.
const FLAGS: &[&str] = &[
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",
    "-fsanitize=undefined",
    "-fsanitize-undefined-trap-on-error",
    "-fno-sanitize=vptr",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
];

fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(root)?;
    found.retain(|path| path.is_dir());
    Ok(found)
}

/// The C++ and CUDA files of a folder.
fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    let wanted = ["h", "cpp", "cu", "cuh"];
    found.retain(|path| path.extension().is_some_and(|e| wanted.iter().any(|w| e == *w)));
    Ok(found)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    found.sort();
    Ok(found)
}
