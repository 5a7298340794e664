//! What the shim must find, and what it must not.

use crate::{Buffer, Device, LaunchError, on_device};
use half::{bf16, f16};

#[repr(C)]
struct FaultParams {
    input: u64,
    output: u64,
    len: i32,
}

const LEN: u32 = 64;

/// Runs a kernel of `shim/faults/kernel.cu` with one block of 64 threads in every mode.
fn run(function: &str) -> Result<Vec<u32>, LaunchError> {
    let values: Vec<u32> = (0..LEN).map(|i| i * i).collect();
    on_device(|device| {
        let input = device.input(&values);
        let output = device.output(values.len());
        launch(device, function, &input, &output)?;
        Ok(output.read())
    })
}

fn launch(
    device: &Device,
    function: &str,
    input: &Buffer<u32>,
    output: &Buffer<u32>,
) -> Result<(), LaunchError> {
    let params = FaultParams { input: input.address(), output: output.address(), len: LEN as i32 };
    device.launch(function, ([1; 3], [LEN, 1, 1]), LEN * 4, &params)
}

fn error_of(function: &str) -> String {
    run(function).expect_err("the kernel is wrong").to_string()
}

#[test]
fn sound_kernels_run() {
    let squares: Vec<u32> = (0..LEN).map(|i| i * i).collect();
    assert_eq!(run("copy_u32").as_ref(), Ok(&squares));
    let given = run("warp_functions").expect("it is sound");
    for (i, &value) in (0..).zip(&given) {
        let (warp, lane) = (i / 32, i % 32);
        let sum: u32 = (32 * warp..32 * warp + 32).map(|i| i * i).sum();
        let (above, below) = ((lane + 1).min(31), lane.saturating_sub(1));
        assert_eq!(value, sum + 1 + above + below + 2, "thread {i}");
    }
}

/// A process may have some 65,000 mappings, and the stacks of a thread's fibers are 2,000.
#[test]
fn a_thread_that_ends_leaves_no_memory() {
    let num_mappings =
        || std::fs::read_to_string("/proc/self/maps").expect("Linux").lines().count();
    let before = num_mappings();
    for _ in 0..16 {
        std::thread::spawn(|| run("copy_u32").expect("it is sound")).join().expect("it ends");
    }
    let after = num_mappings();
    // Other tests have threads of theirs meanwhile.
    assert!(after < before + 16_000, "{before} mappings became {after}");
}

#[test]
fn accesses_outside_a_buffer_are_named() {
    let error = error_of("reads_behind");
    assert_eq!(
        error,
        "reads_behind, block (0, 0, 0), thread (63, 0, 0): it touches 0 bytes behind a buffer of 256"
    );
    assert!(error_of("writes_behind").contains("thread (63, 0, 0): it touches 0 bytes behind"));
    assert!(
        error_of("writes_input").contains("byte 0 of an input of 256, which may not be written")
    );
    assert!(error_of("misaligned").contains("undefined behaviour"));
    assert!(run("copy_u32").is_ok(), "a fault does no harm to later launches");
}

#[test]
fn a_barrier_that_some_have_left_is_a_deadlock() {
    for (function, what) in
        [("leaves_barrier", "a barrier of the block"), ("leaves_warp", "a warp function")]
    {
        let error = error_of(function);
        let expected = format!("deadlock: 1 of 64 threads have returned, thread 0 waits at {what}");
        let expected_in_warp = expected.replace("1 of 64", "33 of 64");
        assert!(error.ends_with(&expected) || error.ends_with(&expected_in_warp), "{error}");
    }
}

#[test]
fn results_that_depend_on_chance_are_found() {
    for function in ["reads_unwritten_shared", "races", "forgets_barrier"] {
        let run = std::panic::catch_unwind(|| run(function));
        assert!(run.is_err(), "{function} gave the same in every mode");
    }
}

#[test]
fn what_a_device_would_refuse_is_refused() {
    on_device(|device| {
        let (input, output) = (device.input(&[0u32; 4]), device.output::<u32>(4));
        let params = FaultParams { input: input.address(), output: output.address(), len: 4 };
        let refused = |function: &str, block: u32, shared_bytes| {
            let launched = device.launch(function, ([1; 3], [block, 1, 1]), shared_bytes, &params);
            launched.expect_err("it is out of range").to_string()
        };
        assert!(refused("no_kernel", 32, 0).contains("there is no such kernel"));
        assert!(refused("copy_u32", 288, 0).contains("launch bounds"));
        assert!(refused("copy_u32", 32, 300 << 10).contains("more shared memory"));
        let short = device.launch("copy_u32", ([1; 3], [32, 1, 1]), 0, &0u32);
        assert!(short.is_err_and(|error| error.to_string().contains("another size")));
        Ok::<_, LaunchError>(())
    })
    .expect("nothing else fails");
}

#[repr(C)]
struct ProductParams {
    a: u64,
    b: u64,
    b_turned: u64,
    c: u64,
}

/// Runs a kernel of `shim/primitives/kernel.cu` on a warp; returns two 16 x 8 matrices.
fn product(function: &str, a: &[u16], b: &[u16]) -> Result<Vec<f32>, LaunchError> {
    let turned: Vec<u16> = (0..8 * 16).map(|i| b[i % 16 * 8 + i / 16]).collect();
    let bits = on_device(|device| {
        let (a, b, b_turned) = (device.input(a), device.input(b), device.input(&turned));
        let c = device.output::<u32>(2 * 16 * 8);
        let params = ProductParams {
            a: a.address(),
            b: b.address(),
            b_turned: b_turned.address(),
            c: c.address(),
        };
        device.launch(function, ([1; 3], [32, 1, 1]), 1280, &params)?;
        Ok(c.read())
    })?;
    Ok(bits.into_iter().map(f32::from_bits).collect())
}

#[test]
fn tensor_core_products_are_products() {
    // Small integers: exact in both types, whatever the order of the sum.
    let value = |i: usize, seed: usize| ((i * 7 + seed) * 13 % 17) as f32 - 8.0;
    let expected: Vec<f32> = (0..16 * 8)
        .map(|i| (0..16).map(|k| value(i / 8 * 16 + k, 1) * value(k * 8 + i % 8, 2)).sum::<f32>())
        .map(|sum| sum + 1.0)
        .collect();
    let expected = [&expected[..], &expected].concat();
    let (a, b): (Vec<f32>, Vec<f32>) =
        ((0..256).map(|i| value(i, 1)).collect(), (0..128).map(|i| value(i, 2)).collect());
    let bits = |values: &[f32]| values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
    let (a_bits, b_bits): (Vec<u16>, Vec<u16>) = (bits(&a), bits(&b));
    assert_eq!(product("product_bf16", &a_bits, &b_bits).as_ref(), Ok(&expected));
    let bits = |values: &[f32]| values.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
    let (a_bits, b_bits): (Vec<u16>, Vec<u16>) = (bits(&a), bits(&b));
    assert_eq!(product("product_f16", &a_bits, &b_bits).as_ref(), Ok(&expected));
}

#[test]
fn a_copy_that_nobody_awaits_is_not_there() {
    let run = std::panic::catch_unwind(|| product("copy_not_awaited", &[0; 256], &[0; 128]));
    assert!(run.is_err(), "the copy was there before it was awaited");
}

#[repr(C)]
struct RingParams {
    input: u64,
    sums: u64,
    out: u64,
    arrivals: u64,
}

const RING_BLOCKS: u32 = 3;

fn row_value(block: u32, row: u32, lane: u32) -> u32 {
    (block * 8 + row) * 32 + lane + 1
}

/// Runs a kernel of rows in three blocks of 64 threads.
fn ring(function: &str, is_cooperative: bool) -> Result<Vec<u32>, LaunchError> {
    let values: Vec<u32> = (0..RING_BLOCKS * 8 * 32).map(|i| row_value(0, 0, i)).collect();
    on_device(|device| {
        let input = device.input(&values);
        let len = RING_BLOCKS as usize * 32;
        let (sums, out) = (device.output::<u32>(len), device.output::<u32>(len));
        let arrivals = device.filled(&[0u32]);
        let params = RingParams {
            input: input.address(),
            sums: sums.address(),
            out: out.address(),
            arrivals: arrivals.address(),
        };
        let dims = ([RING_BLOCKS, 1, 1], [64, 1, 1]);
        if is_cooperative {
            device.launch_cooperative(function, dims, 0, &params)?;
        } else {
            device.launch(function, dims, 0, &params)?;
        }
        assert_eq!(arrivals.read(), [0]);
        Ok(out.read())
    })
}

#[test]
fn blocks_of_a_cooperative_launch_wait_for_each_other() {
    let sums: Vec<u32> = (0..RING_BLOCKS * 32)
        .map(|i| {
            let (block, lane) = ((i / 32 + 1) % RING_BLOCKS, i % 32);
            (0..8).fold(0, |sum, row| 3 * sum + row_value(block, row, lane))
        })
        .collect();
    assert_eq!(ring("ring", true).as_ref(), Ok(&sums));
    let error = ring("ring", false).expect_err("the others have not begun").to_string();
    assert!(error.contains("deadlock") && error.contains("the grid's barrier"), "{error}");
    let many = on_device(|device| {
        let params = RingParams { input: 0, sums: 0, out: 0, arrivals: 0 };
        device.launch_cooperative("ring", ([17, 1, 1], [64, 1, 1]), 0, &params)
    });
    assert!(many.is_err_and(|error| error.to_string().contains("not there at once")));
}

#[test]
fn copies_that_come_too_early_or_too_late_are_found() {
    for function in ["ring_read_early", "ring_overwritten", "copy_asked_early"] {
        let run = std::panic::catch_unwind(|| ring(function, true));
        let is_found = run.map_or(true, |run| run.is_err());
        assert!(is_found, "{function} gave the same in every mode");
    }
}

#[repr(C)]
struct ConvertParams {
    input: u64,
    output: u64,
    len: i32,
}

#[test]
fn conversions_round_as_the_crate_half_and_the_definition_of_e4m3() {
    let mut values: Vec<f32> = (0..1 << 16).map(|i| f32::from_bits(i << 16 | i)).collect();
    values.extend((0..4096).map(|i| (i as f32 - 2048.0) / 4.0));
    values.extend((0..4096).map(|i| (i as f32 - 2048.0) / 65536.0));
    let bits: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
    let len = bits.len();
    let out = on_device(|device| {
        let (input, output) = (device.input(&bits), device.output::<u32>(3 * len));
        let (input, len) = (input.address(), len as i32);
        let params = ConvertParams { input, output: output.address(), len };
        let blocks = (len as u32).div_ceil(256);
        device.launch("convert", ([blocks, 1, 1], [256, 1, 1]), 0, &params)?;
        Ok::<_, LaunchError>(output.read())
    })
    .expect("it is sound");
    for (i, &x) in values.iter().enumerate() {
        let given = |kind: usize| f32::from_bits(out[kind * len + i]);
        if x.is_nan() {
            assert!((0..3).all(|kind| given(kind).is_nan()), "{x:?}");
            continue;
        }
        assert_eq!(given(0).to_bits(), bf16::from_f32(x).to_f32().to_bits(), "bf16 of {x:?}");
        assert_eq!(given(1).to_bits(), f16::from_f32(x).to_f32().to_bits(), "f16 of {x:?}");
        assert_eq!(given(2).to_bits(), nearest_e4m3(x).to_bits(), "e4m3 of {x:?}");
    }
}

/// Of all finite values of the type the nearest, in a tie the one with an even last bit; beyond the
/// largest, the largest.
fn nearest_e4m3(x: f32) -> f32 {
    let value = |bits: u8| {
        let (exponent, mantissa) = (i32::from(bits >> 3), f64::from(bits & 7));
        if exponent == 0 {
            mantissa * 2f64.powi(-9)
        } else {
            (8.0 + mantissa) * 2f64.powi(exponent - 10)
        }
    };
    let magnitude = f64::from(x.abs()).min(448.0);
    let distance = |bits: &u8| (value(*bits) - magnitude).abs();
    let nearest = (0u8..0x7f)
        .min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
        .expect("there are values");
    (value(nearest) as f32).copysign(x)
}
