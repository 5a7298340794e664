//! Known ids stay, stand-ins become what the sampler gave.

use super::*;
use crate::sample::{SampleBatch, SampleRow, sample};
use crate::testing::{devices, ids, message};
use candle_core::Device;

#[test]
fn stand_ins_become_what_was_sampled() {
    for device in devices() {
        // The third row cannot be sampled from.
        let logits = Tensor::new(&[[0f32, 9.0, 0.0], [0.0, 0.0, 9.0], [f32::NAN; 3]], &device);
        let greedy = |num_top| SampleRow { temperature: 0.0, num_top, ..Default::default() };
        for num_top in [None, Some(2)] {
            let rows = [greedy(num_top); 3];
            let batch = SampleBatch { rows: &rows, ..Default::default() };
            let records = sample(logits.as_ref().unwrap(), &batch).unwrap();
            let given = [7, pending(1), pending(0), 5, pending(2), pending(1)];
            let ids = ids(&given, &device).unwrap();
            resolve_ids(&ids, &records).unwrap();
            assert_eq!(ids.to_vec1::<u32>().unwrap(), [7, 2, 1, 5, 0, 2]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::Cpu;
    let records = Tensor::zeros((2, 1), DType::U32, &device).unwrap();
    let beyond = resolve_ids(&ids(&[pending(2)], &device).unwrap(), &records);
    assert!(message(beyond).contains("row 2 is beyond the 2 of the records"));
    let floats = Tensor::zeros(3, DType::F32, &device).unwrap();
    assert!(message(resolve_ids(&floats, &records)).contains("ids must be U32"));
}
