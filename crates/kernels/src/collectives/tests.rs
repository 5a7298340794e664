//! Collectives of threads, on every device, against plain sums.

use super::{Communicator, part};
use crate::device::open_cuda;
use crate::testing::{DTYPES, devices, message, tensor, to_bits, to_f64};
use candle_core::{DType, Device, Result, Tensor};
use std::thread;

/// A group on every device: the ranks on a GPU share one, each with a stream of its own.
fn groups(num_ranks: usize) -> Result<Vec<(Vec<Device>, Vec<Communicator>)>> {
    let ranks_on = |device: Device| {
        let of_rank = |_| if device.is_cpu() { Ok(Device::Cpu) } else { open_cuda(0) };
        let devices = (0..num_ranks).map(of_rank).collect::<Result<Vec<_>>>()?;
        let group = Communicator::group(&devices)?;
        Ok((devices, group))
    };
    devices().into_iter().map(ranks_on).collect()
}

/// What `f` gives of each rank, all at once. On a GPU that they share, what candle loads at first use may wait for
/// all ranks, so that tensors are made before.
fn together<T: Send>(group: &[Communicator], f: impl Fn(&Communicator) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let ranks: Vec<_> = group.iter().map(|rank| scope.spawn(|| f(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank does not panic")).collect()
    })
}

#[test]
fn parts_are_all_there_is_and_none_twice() {
    for (len, num_ranks) in [(1, 1), (8, 2), (7, 3), (131, 4), (131, 8), (3, 5)] {
        let mut next = 0;
        for rank in 0..num_ranks {
            let part = part(len, rank, num_ranks);
            assert!(part.len() <= super::part(len, 0, num_ranks).len());
            assert_eq!(part.start.min(len), next);
            next = part.end;
        }
        assert_eq!(next, len);
    }
}

/// One element; no whole packs; more than a round of 8 MiB.
#[test]
fn a_sum_is_that_of_all_ranks_in_their_order() -> Result<()> {
    for num_ranks in [2, 3, 8] {
        for (devices, group) in groups(num_ranks)? {
            for dtype in DTYPES {
                for (rows, width) in [(1, 1), (3, 7), (5, 896), (70, 40_001)] {
                    let x = |rank| tensor(rank as u64, &[rows, width], dtype, &devices[rank]);
                    let x = (0..num_ranks).map(x).collect::<Result<Vec<_>>>()?;
                    let sums = together(&group, |end| end.all_reduce(&x[end.rank()]));
                    let sums = sums.into_iter().collect::<Result<Vec<_>>>()?;
                    let mut expected = vec![0f32; rows * width];
                    for x in &x {
                        for (sum, value) in expected.iter_mut().zip(to_f64(x)?) {
                            *sum += value as f32;
                        }
                    }
                    let expected = Tensor::from_vec(expected, (rows, width), &Device::Cpu)?;
                    let expected = to_bits(&expected.to_dtype(dtype)?)?;
                    for sum in sums {
                        assert_eq!((sum.dims(), sum.dtype()), (&[rows, width][..], dtype));
                        assert!(to_bits(&sum)? == expected, "{num_ranks} x [{rows}, {width}]");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn columns_are_put_side_by_side() -> Result<()> {
    for num_ranks in [2, 3, 4] {
        for (devices, group) in groups(num_ranks)? {
            for (rows, width) in [(1, 5), (3, 131), (9, 256), (40, 151_936)] {
                let whole = tensor(1, &[rows, width], DType::F32, &Device::Cpu)?;
                let own = |rank: usize| {
                    let columns = part(width, rank, num_ranks);
                    let own = whole.narrow(1, columns.start, columns.len())?.contiguous()?;
                    own.to_device(&devices[rank])
                };
                let own = (0..num_ranks).map(own).collect::<Result<Vec<_>>>()?;
                let gathered = together(&group, |end| end.all_gather(&own[end.rank()], width));
                for gathered in gathered {
                    assert!(to_bits(&gathered?)? == to_bits(&whole)?, "[{rows}, {width}]");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn known_numbers_are_summed_as_they_should() -> Result<()> {
    for num_ranks in [2, 4, 5] {
        for (devices, group) in groups(num_ranks)? {
            for checked in together(&group, |end| end.check(&devices[end.rank()])) {
                checked?;
            }
        }
    }
    Ok(())
}

/// Ranks that are ahead of others, in whatever order they come.
#[test]
fn rounds_follow_each_other() -> Result<()> {
    for (devices, group) in groups(3)? {
        let first = |(rank, device): (usize, &Device)| {
            // And what divides it.
            let x = (Tensor::full(3.0 * rank as f32, 50, device)? / 3.0)?;
            x.to_vec1::<f32>().map(|_| x)
        };
        let first = devices.iter().enumerate().map(first).collect::<Result<Vec<_>>>()?;
        let sums = together(&group, |end| -> Result<Vec<f32>> {
            let mut x = first[end.rank()].clone();
            for round in 0..200 {
                if (round + end.rank()) % 50 == 0 {
                    thread::yield_now();
                }
                x = (end.all_reduce(&x)? / 3.0)?;
            }
            x.to_vec1()
        });
        for sums in sums {
            assert!(sums?.iter().all(|sum| (sum - 1.0).abs() < 1e-3));
        }
    }
    Ok(())
}

#[test]
fn who_waits_for_a_rank_that_gave_up_goes_on_and_the_group_can_begin_anew() -> Result<()> {
    for (devices, group) in groups(3)? {
        let ones = devices.iter().map(|device| Tensor::ones(10, DType::F32, device));
        let ones = ones.collect::<Result<Vec<_>>>()?;
        for _ in 0..2 {
            together(&group, |end| -> Result<()> {
                let x = &ones[end.rank()];
                if end.rank() == 1 {
                    thread::sleep(std::time::Duration::from_millis(20));
                    end.give_up();
                    return Ok(());
                }
                let sum = end.all_reduce(x);
                if devices[0].is_cpu() {
                    assert!(message(sum).contains("another rank of the model failed"));
                    return Ok(());
                }
                // A GPU is asked and does not say: all that must be is that it comes to an end.
                sum?.to_vec1::<f32>().map(drop)
            })
            .into_iter()
            .collect::<Result<()>>()?;
            assert!(group[2].is_given_up());
            group[0].begin_anew()?;
            assert!(!group[1].is_given_up());
            let sums = together(&group, |end| end.all_reduce(&ones[end.rank()])?.to_vec1::<f32>());
            for sum in sums {
                assert_eq!(sum?, [3.0; 10]);
            }
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let alone = message(Communicator::group(&[Device::Cpu]));
    assert!(alone.contains("a group has 2 to 8 ranks, not 1"), "{alone}");
    let group = Communicator::group(&[Device::Cpu, Device::Cpu])?;
    let unlike = together(&group, |end| {
        end.all_reduce(&Tensor::zeros(3 + end.rank(), DType::F32, &Device::Cpu)?)
    });
    for sum in unlike {
        assert!(message(sum).contains("ranks sum tensors of one shape"));
    }
    let strided = Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?.t()?;
    assert!(message(group[0].all_reduce(&strided)).contains("x must be contiguous"));
    let narrow = Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?;
    let narrow = message(group[1].all_gather(&narrow, 7));
    assert!(narrow.contains("rank 1 gives 3 columns of F32 of 7, not 4"), "{narrow}");
    Ok(())
}
