//! The machine that a measurement ran on, as it says of itself.
//!
//! **Owns**: reading it.
//! **Does not own**: how fast its disk is (measured, in `bench`).

use std::fs;
use std::thread;
use std::time::Duration;

use serde::Serialize;

/// Where `utime` stands in `/proc/<pid>/stat`, counted behind the name: the 14th field of all.
const PROCESSOR_FIELD: usize = 11;

/// Processor, kernel and memory.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The model of the first processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Kernel and its release.
    pub kernel: String,
    /// Memory in MiB; 0 if unknown.
    pub memory_mib: u64,
}

impl Machine {
    /// Asks the operating system; what it does not tell is "unknown".
    #[must_use]
    pub fn read() -> Self {
        let cpu = field(&read("/proc/cpuinfo"), "model name");
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let [system, release] = ["ostype", "osrelease"]
            .map(|name| read(&format!("/proc/sys/kernel/{name}")).trim().to_owned());
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{system} {release}"),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
        }
    }

    /// One line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self {
            cpu,
            cores,
            kernel,
            memory_mib,
        } = self;
        format!("{cpu}, {cores} cores, {memory_mib} MiB, {kernel}")
    }
}

/// The memory that a process holds, in KiB, by its pid. `None` once it is gone.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    let text = field(&read(&format!("/proc/{pid}/status")), "VmRSS")?;
    text.split(' ').next()?.parse().ok()
}

/// The processor time that a process has taken, in its own code and in the kernel's. `None` once it
/// is gone.
#[must_use]
pub fn processor_time(pid: u32) -> Option<Duration> {
    let ticks = processor_ticks(&read(&format!("/proc/{pid}/stat")))?;
    let ticks_per_s = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_s as f64))
}

/// `utime` and `stime`. The name of the program is in brackets and may hold anything.
fn processor_ticks(text: &str) -> Option<u64> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(PROCESSOR_FIELD);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Processes that wanted to run, on average over the last minute; 0 if unknown. Before a
/// measurement it is the load of others.
#[must_use]
pub fn load_average() -> f64 {
    let text = read("/proc/loadavg");
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.unwrap_or(0.0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_read() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU"));
        assert_eq!(field(text, "missing"), None);
    }

    #[test]
    fn processor_time_is_read_behind_the_name() {
        let text = "77 (a) b (c) S 1 77 77 0 -1 4194560 9 0 0 0 120 30 0 0 20 0 8 0 5 1 2";
        assert_eq!(processor_ticks(text), Some(150));
        assert_eq!(processor_ticks("77 (a) S 1"), None);
        assert!(processor_time(std::process::id()).is_some());
    }

    #[test]
    fn this_process_holds_memory() {
        assert!(resident_kib(std::process::id()).is_some_and(|kib| kib > 100));
        assert!(Machine::read().cores > 0);
    }
}
