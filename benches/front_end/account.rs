//! What Linux says that threads and the process have used.

use benches::Result;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Length of a tick of `/proc/*/stat`: every Linux has 100 a second there.
const TICK: Duration = Duration::from_millis(10);

/// Processor time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) total: Duration,
    /// The kernel's part, in steps of a tick a thread.
    pub(crate) kernel: Duration,
}

impl Cpu {
    /// Of this thread.
    pub(crate) fn of_this_thread() -> Result<Self> {
        // What is said of a thread that runs is as old as its last pause.
        sleep(Duration::from_nanos(1));
        Self::read("/proc/thread-self")
    }

    /// Of this process' threads of this name. Those that have ended are not counted.
    pub(crate) fn of_threads(name: &str) -> Result<Self> {
        let mut sum = Self::default();
        for task in fs::read_dir("/proc/self/task")? {
            let path = task?.path();
            let path = path.display();
            if fs::read_to_string(format!("{path}/comm"))?.trim_end() == name {
                let cpu = Self::read(&path.to_string())?;
                sum.total += cpu.total;
                sum.kernel += cpu.kernel;
            }
        }
        Ok(sum)
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            total: self.total.saturating_sub(before.total),
            kernel: self.kernel.saturating_sub(before.kernel),
        }
    }

    fn read(path: &str) -> Result<Self> {
        let accounts = fs::read_to_string(format!("{path}/schedstat"))?;
        let total = accounts.split(' ').next().ok_or("an empty schedstat")?.parse()?;
        let stat = fs::read_to_string(format!("{path}/stat"))?;
        // The name, in parentheses, may have spaces.
        let (_, fields) = stat.rsplit_once(')').ok_or("a stat without a name")?;
        let ticks: u32 = fields.split(' ').nth(13).ok_or("a short stat")?.parse()?;
        Ok(Self { total: Duration::from_nanos(total), kernel: TICK * ticks })
    }
}

/// Memory of this process that is in RAM, in bytes.
pub(crate) fn resident_bytes() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kib.parse::<usize>()? << 10)
}
