//! Processors of its own for one side of a measurement, as a region has.
//!
//! **Owns**: which half of this machine's processors is whose, and moving threads there.
//! **Does not own**: when that makes a measurement truer (the bench decides, and says so).

use std::fs;

use anyhow::Context;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use, in two halves.
#[derive(Clone, Copy, Debug)]
pub struct Halves {
    /// The half of the side whose latency is measured.
    pub near: CpuSet,
    /// The other half.
    pub far: CpuSet,
}

impl Halves {
    /// Splits what this thread may use. `None` if that is one processor only.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn split() -> anyhow::Result<Option<Self>> {
        let all = sched_getaffinity(None).context("cannot ask for this process's processors")?;
        let count = all.count() as usize;
        if count < 2 {
            return Ok(None);
        }
        let (mut near, mut far) = (CpuSet::new(), CpuSet::new());
        let allowed = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
        for (index, cpu) in allowed.enumerate() {
            let half = if index < count / 2 {
                &mut near
            } else {
                &mut far
            };
            half.set(cpu);
        }
        Ok(Some(Self { near, far }))
    }
}

/// Keeps this thread, and every one that it starts from now on, to some processors.
///
/// # Errors
/// What the operating system says.
pub fn keep_thread_to(processors: &CpuSet) -> anyhow::Result<()> {
    sched_setaffinity(None, processors).context("cannot choose this thread's processors")
}

/// Keeps a process to some processors: all its threads, and every one that they start.
///
/// # Errors
/// What the operating system says; the process may have ended.
pub fn keep_process_to(pid: u32, processors: &CpuSet) -> anyhow::Result<()> {
    let tasks = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
    for entry in entries {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        let id = id.and_then(Pid::from_raw);
        let id = id.with_context(|| format!("{tasks}/{} is no thread", name.display()))?;
        sched_setaffinity(Some(id), processors)
            .with_context(|| format!("cannot choose the processors of process {pid}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_share_no_processor_and_leave_none_out() {
        std::thread::spawn(|| {
            let all = sched_getaffinity(None).unwrap();
            let Some(Halves { near, far }) = Halves::split().unwrap() else {
                assert_eq!(all.count(), 1);
                return;
            };
            assert_eq!(near.count() + far.count(), all.count());
            assert!((0..CpuSet::MAX_CPU).all(|cpu| !(near.is_set(cpu) && far.is_set(cpu))));
            keep_thread_to(&far).unwrap();
            let started = std::thread::spawn(|| sched_getaffinity(None).unwrap());
            assert!(started.join().unwrap() == far, "threads inherit it");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn every_thread_of_a_process_is_kept() {
        let Some(halves) = Halves::split().unwrap() else {
            return;
        };
        let mut child = std::process::Command::new("sleep")
            .arg("20")
            .spawn()
            .unwrap();
        keep_process_to(child.id(), &halves.far).unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let kept = sched_getaffinity(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(kept == halves.far);
        assert!(
            keep_process_to(child.id(), &halves.far).is_err(),
            "it ended"
        );
    }
}
