//! Where an engine computes: the processor, or a GPU with memory of its own.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, Error, Result};
pub use kernels::device::HAS_CUDA;
use kernels::device::{Readback, memory, open_cuda, upload};
use serde::{Deserialize, Serialize};

use crate::host_memory;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceKind {
    /// The first GPU if there is one and this build can use it, otherwise the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |digits: &str| digits.parse().map(Self::Cuda).ok();
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(number),
        }
        .ok_or_else(|| format!("unknown device `{text}`: use auto, cpu, cuda or cuda:N"))
    }
}

impl TryFrom<String> for DeviceKind {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceKind> for String {
    fn from(kind: DeviceKind) -> Self {
        kind.to_string()
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Opens a device.
///
/// # Errors
/// A GPU that was asked for by name and cannot be had: in one line, with what to do.
pub fn open(kind: DeviceKind) -> Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda(ordinal) => open_cuda(ordinal)
            .map_err(|error| Error::Msg(format!("--device {kind}: {}", without_backtrace(&error)))),
        DeviceKind::Auto if !HAS_CUDA => Ok(Device::Cpu),
        DeviceKind::Auto => open_cuda(0).or_else(|error| {
            tracing::warn!("the model runs on the processor: {}", without_backtrace(&error));
            Ok(Device::Cpu)
        }),
    }
}

/// Opens a device for each rank of a model: GPUs from the one that `kind` names on.
///
/// # Errors
/// As [`open`], for each of them.
pub fn open_ranks(kind: DeviceKind, num_ranks: usize) -> Result<Vec<Device>> {
    let first = open(kind)?;
    let number = if let DeviceKind::Cuda(number) = kind { number } else { 0 };
    let others = (1..num_ranks).map(|rank| {
        if first.is_cpu() { Ok(Device::Cpu) } else { open(DeviceKind::Cuda(number + rank)) }
    });
    let others = others.collect::<Result<Vec<_>>>().map_err(|error| {
        let error = without_backtrace(&error);
        Error::Msg(format!("--tensor-parallel-size {num_ranks} needs a GPU for each: {error}"))
    })?;
    Ok([vec![first], others].concat())
}

/// Bytes that an engine may take of each of its ranks' devices: what the fullest GPU can give, or a part of what
/// is free of the host's memory.
///
/// # Errors
/// As [`available_bytes`].
pub fn available_bytes_of_ranks(devices: &[Device], gpu_memory_utilization: f64) -> Result<usize> {
    let each = devices.iter().map(|device| available_bytes(device, gpu_memory_utilization));
    let least = each.collect::<Result<Vec<_>>>()?.into_iter().min().unwrap_or(0);
    let share_memory = devices.iter().all(Device::is_cpu);
    Ok(if share_memory { least / devices.len().max(1) } else { least })
}

/// Sends a device a word and waits for it to come back.
///
/// # Errors
/// A device that refuses everything since a fault.
pub(crate) fn check_device(device: &Device) -> Result<()> {
    let word = upload(&[0], device)?;
    Readback::start(&word)?.wait().map(drop)
}

/// What went wrong in one line. With `RUST_BACKTRACE` candle appends where, which is nothing to clients.
pub(crate) fn without_backtrace(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        Error::Context { inner, context } => format!("{context}: {}", without_backtrace(inner)),
        _ => error.to_string(),
    }
}

/// Bytes that an engine may take: of a GPU's memory `gpu_memory_utilization` (of 1) less what is taken
/// already, of the host's what is free.
///
/// # Errors
/// A driver or a system that does not say.
pub fn available_bytes(device: &Device, gpu_memory_utilization: f64) -> Result<usize> {
    let Some(memory) = memory(device)? else {
        return host_memory::available_bytes().map_err(Error::wrap);
    };
    let ours = (memory.total as f64 * gpu_memory_utilization) as usize;
    Ok(ours.saturating_sub(memory.total - memory.free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let inner = Box::new(Error::Msg("illegal address".to_owned()));
        let error = Error::WithBacktrace { inner, backtrace }.context("attention");
        assert!(error.to_string().lines().count() > 2);
        assert_eq!(without_backtrace(&error), "attention: illegal address");
    }

    #[test]
    fn ranks_on_the_cpu_share_its_memory() {
        let two = open_ranks(DeviceKind::Cpu, 2).unwrap();
        let alone = available_bytes(&Device::Cpu, 1.0).unwrap();
        let each = available_bytes_of_ranks(&two, 1.0).unwrap();
        assert_eq!(two.len(), 2);
        // Other processes take and give back memory meanwhile.
        assert!((alone / 4..alone).contains(&each), "{each} of {alone}");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in [DeviceKind::Auto, DeviceKind::Cpu, DeviceKind::Cuda(0), DeviceKind::Cuda(7)] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("cuda".parse(), Ok(DeviceKind::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = wrong.parse::<DeviceKind>().unwrap_err();
            assert!(error.contains("use auto, cpu, cuda or cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_cannot_be_had_is_refused_in_one_line() {
        if HAS_CUDA {
            return; // On a machine with one it opens: the tests of the feature look at that.
        }
        let error = open(DeviceKind::Cuda(3)).unwrap_err().to_string();
        assert!(error.contains("--device cuda:3: this sconce was built for the CPU"), "{error}");
        assert_eq!(error.lines().count(), 1);
        assert!(open(DeviceKind::Auto).unwrap().is_cpu());
    }
}
