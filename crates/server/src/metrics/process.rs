//! The process as Prometheus' client libraries show it, read from `/proc` when asked.

use std::fs;

use super::page::Page;

/// Ticks of `/proc/self/stat`: `USER_HZ`, the same 100 on every architecture that Linux runs on here.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds what `/proc` has; elsewhere than on Linux that is nothing. And when the server took another's
/// place, if it did, in seconds since 1970.
pub(crate) fn render(page: &mut Page, restarted_at: Option<u64>) {
    let version = env!("CARGO_PKG_VERSION");
    page.family(("gauge", "sconce:build_info", "The program."), |samples| {
        samples.add(format_args!("version=\"{version}\""), 1.0);
    });
    let mut gauge = |(kind, name, help): (&str, &str, &str), value: Option<f64>| {
        page.family((kind, name, help), |samples| {
            value.inspect(|value| samples.plain(*value));
        });
    };
    let help = "When the server began anew in its place, in seconds since 1970; 0: it did not.";
    let restarted = restarted_at.unwrap_or(0) as f64;
    gauge(("gauge", "sconce:server_restart_time_seconds", help), Some(restarted));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields are counted behind the name, which may hold anything, in brackets: proc_pid_stat(5).
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let field = |number: usize| fields.split(' ').nth(number - 3)?.parse::<f64>().ok();
    let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
    let help = "Processor time, in seconds.";
    gauge(("counter", "process_cpu_seconds_total", help), ticks.map(|n| n / TICKS_PER_SECOND));
    let started = field(22).zip(boot_time()).map(|(since, boot)| boot + since / TICKS_PER_SECOND);
    let help = "When the process began, in seconds since 1970.";
    gauge(("gauge", "process_start_time_seconds", help), started);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| kilobytes(&status, name).map(|kb| kb * 1024.0);
    let help = "Memory that is in RAM, mapped files included, in bytes.";
    gauge(("gauge", "process_resident_memory_bytes", help), bytes("VmRSS:"));
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    gauge(("gauge", "process_open_fds", "Open files and sockets."), open);
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

fn kilobytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
