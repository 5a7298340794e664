//! Rotation and cache write on the CPU: queries in parallel over tokens, cache over heads.

use super::{HeadShape, NO_SLOT, RopeKvWrite, WriteHeads};
use crate::disjoint::DisjointMut;
use crate::pool::{for_each_row, for_each_task};
use crate::rms_norm::{Scale, norm_factor};
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{contiguous, cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// Refuses positions beyond the tables and slots beyond the cache.
pub(super) fn check_values(args: &RopeKvWrite, num_slots: usize) -> Result<()> {
    let limits = [
        (args.positions, args.cos.dims()[0], "position", None),
        (args.slots, num_slots, "slot", Some(NO_SLOT)),
    ];
    for (tensor, limit, name, exception) in limits {
        let (storage, layout) = tensor.storage_and_layout();
        let values: &[u32] = cpu_slice(&storage, layout, &format!("{name}s"))?;
        let is_beyond = |&value: &u32| value as usize >= limit && Some(value) != exception;
        if let Some(token) = values.iter().position(is_beyond) {
            bail!("{name} {} of token {token} is out of range: there are {limit}", values[token]);
        }
    }
    Ok(())
}

/// qkv `[tokens, (heads + 2 * kv_heads) * head_dim]` to q `[tokens, heads, head_dim]`.
pub(super) fn rotate_queries<E: Element>(
    (qkv, layout): (&CpuStorage, &Layout),
    args: &RopeKvWrite,
) -> Result<CpuStorage> {
    let qkv: &[E] = slice(qkv, layout, "qkv")?;
    let (tokens, qkv_width) = layout.shape().dims2()?;
    let HeadShape { num_heads, head_dim, .. } = args.heads;
    with_rotation(args, (args.q_norm, args.q_scale), |rotation| {
        let width = num_heads * head_dim;
        let mut q = vec![E::default(); tokens * width];
        let work = 4 * q.len();
        for_each_row(&mut q, width, work, |token, q| {
            let x = &qkv[token * qkv_width..][..width];
            for (x, q) in x.chunks_exact(head_dim).zip(q.chunks_exact_mut(head_dim)) {
                dispatch(RotateHead { x, rotation, token, out: q });
            }
        });
        Ok(E::to_cpu_storage_owned(q))
    })
}

/// Writes key or value heads of qkv to `[num_blocks, kv_heads, block_size, head_dim]`.
///
/// Parallel over heads, whose elements are apart whatever the slots are: two tokens with one slot
/// are a mistake of the caller, but not a data race. Then the later token wins.
pub(super) fn write_heads<E: Element, C: Element>(
    (cache, cache_layout): (&mut CpuStorage, &Layout),
    (qkv, qkv_layout): (&CpuStorage, &Layout),
    op: &WriteHeads,
) -> Result<()> {
    let qkv: &[E] = slice(qkv, qkv_layout, "qkv")?;
    let qkv_width = qkv_layout.dims()[1];
    let (_, num_kv_heads, block_size, head_dim) = cache_layout.shape().dims4()?;
    let (start, end) = contiguous(cache_layout, "cache")?;
    let Some(cache) = C::slice_mut(cache) else {
        bail!("the cache must be {:?}", C::DTYPE);
    };
    let cache = DisjointMut::new(&mut cache[start..end]);
    let (slots, slots_layout) = op.args.slots.storage_and_layout();
    let slots: &[u32] = cpu_slice(&slots, slots_layout, "slots")?;
    with_rotation(op.args, (op.norm, None), |rotation| {
        let work = 4 * slots.len() * num_kv_heads * head_dim;
        for_each_task(num_kv_heads, work, |head| {
            let mut rotated = vec![E::default(); if op.rotate { head_dim } else { 0 }];
            for (token, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot != NO_SLOT) {
                let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
                let row = (block * num_kv_heads + head) * block_size + offset;
                let x = &qkv[token * qkv_width + (op.first_head + head) * head_dim..][..head_dim];
                // SAFETY: only this task writes rows of this head, one after the other.
                let out = unsafe { cache.slice(row * head_dim..(row + 1) * head_dim) };
                if op.rotate {
                    dispatch(RotateHead { x, rotation, token, out: &mut rotated });
                    dispatch(Convert { x: &rotated, out });
                } else {
                    dispatch(Convert { x, out });
                }
            }
        });
        Ok(())
    })
}

/// Numbers in another storage type, or in the same.
struct Convert<'a, E, C> {
    x: &'a [E],
    out: &'a mut [C],
}

impl<E: Element, C: Element> Kernel for Convert<'_, E, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { x, out } = self;
        for i in (0..x.len()).step_by(LANES) {
            store_at(load_at::<V, E>(x, i), out, i);
        }
    }
}

/// What every head of a call is rotated by.
#[derive(Clone, Copy)]
struct Rotation<'a, E> {
    norm: Option<Scale<'a, E>>,
    norm_eps: f32,
    cos: &'a [f32],
    sin: &'a [f32],
    /// Of each position.
    scale: Option<&'a [f32]>,
    positions: &'a [u32],
}

/// Calls `f` with the tensors of the arguments as slices.
fn with_rotation<E: Element, R>(
    args: &RopeKvWrite,
    (norm, scale): (Option<&Tensor>, Option<&Tensor>),
    f: impl FnOnce(Rotation<E>) -> Result<R>,
) -> Result<R> {
    let (cos, cos_layout) = args.cos.storage_and_layout();
    let (sin, sin_layout) = args.sin.storage_and_layout();
    let (positions, positions_layout) = args.positions.storage_and_layout();
    let norm = norm.map(Tensor::storage_and_layout);
    let scale = scale.map(Tensor::storage_and_layout);
    let scale = scale.as_ref().map(|(scale, layout)| cpu_slice(scale, layout, "q_scale"));
    let norm = match &norm {
        Some((norm, layout)) => {
            Some(Scale { weight: cpu_slice(norm, layout, "norm")?, gain: args.norm_gain })
        }
        None => None,
    };
    f(Rotation {
        norm,
        norm_eps: args.norm_eps,
        cos: cpu_slice(&cos, cos_layout, "cos")?,
        sin: cpu_slice(&sin, sin_layout, "sin")?,
        scale: scale.transpose()?,
        positions: cpu_slice(&positions, positions_layout, "positions")?,
    })
}

/// One head of one token.
struct RotateHead<'a, E> {
    x: &'a [E],
    rotation: Rotation<'a, E>,
    token: usize,
    out: &'a mut [E],
}

impl<E: Element> Kernel for RotateHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { x, rotation, token, out } = self;
        if let Some(scale) = rotation.norm {
            let factor = norm_factor::<V, E>(x, rotation.norm_eps);
            scale.apply::<V>(x, factor, out);
        } else {
            out.copy_from_slice(x);
        }
        let half = out.len() / 2;
        let position = rotation.positions[token] as usize;
        let scale = V::splat(rotation.scale.map_or(1.0, |scale| scale[position]));
        let angles = position * half..;
        let cos = &rotation.cos[angles.clone()][..half];
        let sin = &rotation.sin[angles][..half];
        let (first, second) = out.split_at_mut(half);
        for i in (0..half).step_by(LANES) {
            let (cos, sin): (V, V) = (load_at(cos, i), load_at(sin, i));
            let (a, b): (V, V) = (load_at(first, i), load_at(second, i));
            store_at(a.mul(cos).sub(b.mul(sin)).mul(scale), first, i);
            store_at(b.mul(cos).add(a.mul(sin)).mul(scale), second, i);
        }
    }
}
