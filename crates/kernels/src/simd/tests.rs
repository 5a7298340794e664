//! Every form of the lanes against plain arithmetic.

use super::tiles::{Ahead, PANEL, SIDE, Step};
use super::{Element, Kernel, LANES, Lanes, Path, Portable, dispatch};
use half::bf16;

/// exp of every value.
struct Exp<'a>(&'a mut [f32]);

impl Kernel for Exp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (chunks, _) = self.0.as_chunks_mut();
        for chunk in chunks {
            V::load(chunk).exp().store(chunk);
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let inputs: Vec<f32> =
        (0..1 << 20).map(|i| (i as f32 / (1 << 20) as f32) * 175.0 - 87.25).collect();
    for portable in [false, true] {
        let mut outputs = inputs.clone();
        if portable {
            Exp(&mut outputs).run::<Portable>();
        } else {
            dispatch(Exp(&mut outputs));
        }
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            assert!((f64::from(*y) - exact).abs() <= 2.0 * ulp, "exp({x}) is {exact}, not {y}");
        }
    }
}

#[test]
fn exp_at_its_ends() {
    let mut x = [0.0; LANES];
    x[..8].copy_from_slice(&[
        f32::NEG_INFINITY,
        -1e30,
        -88.0,
        0.0,
        -0.0,
        89.0,
        f32::INFINITY,
        f32::NAN,
    ]);
    dispatch(Exp(&mut x));
    assert_eq!(x[..7], [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
    assert!(x[7].is_nan());
}

/// Everything else, as bits: the wide forms must agree with the plain one.
struct Operations<'a>(&'a [f32; LANES], &'a [f32; LANES]);

impl Kernel for Operations<'_> {
    type Output = Vec<[u32; LANES]>;

    #[inline(always)]
    fn run<V: Lanes>(self) -> Self::Output {
        let (a, b) = (V::load(self.0), V::load(self.1));
        let mut rows: [V; LANES] = std::array::from_fn(|i| a.add(V::splat(i as f32)).mul(b).sub(a));
        V::transpose(&mut rows);
        let mut narrow = [bf16::ZERO; LANES];
        bf16::store(a.div(b), &mut narrow);
        let single = [
            bf16::load(&narrow),
            a.max(b),
            b.max(a),
            a.select_less(b, b, a.sub(b)),
            a.mul_add(V::splat(2.0), b), // exact but for one rounding, fused or not
            V::splat(a.reduce_add()),
            V::splat(a.reduce_max()),
        ];
        rows.into_iter()
            .chain(single)
            .map(|x| {
                let mut out = [0.0; LANES];
                x.store(&mut out);
                out.map(f32::to_bits)
            })
            .collect()
    }
}

#[test]
fn wide_operations_equal_the_portable_ones() {
    for seed in 0..20 {
        let a = crate::testing::values(2 * seed, LANES).try_into().unwrap();
        let mut b: [f32; LANES] = crate::testing::values(2 * seed + 1, LANES).try_into().unwrap();
        b[seed as usize % LANES] = f32::NAN;
        assert_eq!(dispatch(Operations(&a, &b)), Operations(&a, &b).run::<Portable>());
    }
}

#[test]
fn transpose_swaps_rows_and_columns() {
    struct Transpose;
    impl Kernel for Transpose {
        type Output = [[f32; LANES]; LANES];

        #[inline(always)]
        fn run<V: Lanes>(self) -> Self::Output {
            let mut rows: [V; LANES] =
                std::array::from_fn(|i| V::load(&std::array::from_fn(|j| (LANES * i + j) as f32)));
            V::transpose(&mut rows);
            rows.map(|row| {
                let mut out = [0.0; LANES];
                row.store(&mut out);
                out
            })
        }
    }
    let expected = std::array::from_fn(|i| std::array::from_fn(|j| (LANES * j + i) as f32));
    assert_eq!(dispatch(Transpose), expected);
}

#[test]
fn bf16_rounds_as_half_does() {
    let special = [0x0000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0x7f7f_ffff, 0x0000_8000];
    let many = (0..200_000u32).map(|i| i.wrapping_mul(0x9e37_79b9));
    for bits in special.into_iter().chain(many) {
        let x = f32::from_bits(bits);
        let (ours, theirs) = (<bf16 as Element>::from_f32(x), bf16::from_f32(x));
        assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:x}");
    }
}

#[test]
fn lanes_are_rounded_as_elements_are() {
    struct Round(u32);
    impl Kernel for Round {
        type Output = ();

        #[inline(always)]
        fn run<V: Lanes>(self) {
            let special = [0x7f80_0000, 0xff80_0001, 0x7fff_ffff, 0x7f7f_ffff, 0x0000_8000, 1];
            let x: [f32; LANES] = std::array::from_fn(|i| {
                let any = (self.0 * LANES as u32 + i as u32).wrapping_mul(0x9e37_79b9);
                f32::from_bits(if i < special.len() { special[i] } else { any })
            });
            let mut rounded = [bf16::ZERO; LANES];
            <bf16 as Element>::store(V::load(&x), &mut rounded);
            let expected = x.map(|x| <bf16 as Element>::from_f32(x).to_bits());
            assert_eq!(rounded.map(bf16::to_bits), expected);
        }
    }
    for path in Path::available() {
        (0..1000).for_each(|seed| path.run(Round(seed)));
    }
}

#[test]
fn what_is_read_ahead_is_within_the_steps() {
    for len in 0..100 {
        let steps = vec![Step([0; PANEL]); len];
        let Some([first, last]) = Ahead::bounds(&steps) else {
            assert!(len < SIDE);
            continue;
        };
        let index = |step: *const Step| (step.addr() - steps.as_ptr().addr()) / size_of::<Step>();
        assert_eq!(index(last) + SIDE, len);
        assert_eq!(index(first), index(last).min(SIDE / 2));
    }
}

/// What Linux found of the processor, which is in no way how this is found here.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn tiles_are_used_where_there_are_some() {
    let described = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |name: &str| described.split_whitespace().any(|flag| flag == name);
    let expected = ["amx_tile", "amx_int8", "amx_bf16", "avx512_bf16"].map(has) == [true; 4];
    assert_eq!(Path::available().any(|path| path == Path::Amx), expected);
}
