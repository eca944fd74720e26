//! Which operations of a disk in memory fail.
//!
//! **Owns**: the counters and the plan.
//! **Does not own**: what a failed operation leaves behind (the image).

use std::io;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Looks only: not counted, refused once the disk is frozen.
    Look,
    /// Reads bytes: counted, but no change of the disk.
    Read,
    /// Writes bytes into a file that then has grown by `growth_bytes`.
    Write {
        /// Bytes by which the file grows.
        growth_bytes: u64,
    },
    /// Makes a file or directory durable.
    Sync,
    /// Changes names.
    Name,
}

/// Whether it takes effect, and what the caller hears.
pub(super) enum Verdict {
    /// It takes effect.
    Done,
    /// It takes no effect.
    Refused(io::Error),
    /// The machine dies with it under way: it is live, it may or may not become durable.
    UnderWay(io::Error),
    /// A sync that fails: nothing of it will ever be durable.
    Lost(io::Error),
}

/// The plan and what was counted towards it.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) operations: u64,
    pub(super) syncs: u64,
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) freeze_at: Option<u64>,
    pub(super) fail_sync_at: Option<u64>,
    pub(super) fail_write_at: Option<u64>,
    pub(super) fail_read_at: Option<(u64, io::ErrorKind)>,
    pub(super) space_left_bytes: Option<u64>,
}

impl Faults {
    pub(super) fn judge(&mut self, step: Step) -> Verdict {
        let frozen = || io::Error::other("injected fault: the machine is dead");
        if self.freeze_at.is_some_and(|at| self.operations >= at) {
            return Verdict::Refused(frozen());
        }
        if step == Step::Look {
            return Verdict::Done;
        }
        if step == Step::Read {
            return self.judge_read();
        }
        self.operations += 1;
        if self.freeze_at == Some(self.operations) {
            return Verdict::UnderWay(frozen());
        }
        match step {
            Step::Write { growth_bytes } => self.judge_write(growth_bytes),
            Step::Sync => self.judge_sync(),
            Step::Name | Step::Look | Step::Read => Verdict::Done,
        }
    }

    fn judge_read(&mut self) -> Verdict {
        self.reads += 1;
        match self.fail_read_at {
            Some((at, kind)) if at == self.reads => {
                Verdict::Refused(io::Error::new(kind, "injected fault: a failed read"))
            }
            _ => Verdict::Done,
        }
    }

    fn judge_write(&mut self, growth_bytes: u64) -> Verdict {
        self.writes += 1;
        if self.fail_write_at == Some(self.writes) {
            return Verdict::Refused(io::Error::other("injected fault: EIO on write"));
        }
        if let Some(left) = &mut self.space_left_bytes {
            match left.checked_sub(growth_bytes) {
                Some(rest) => *left = rest,
                None => return Verdict::Refused(io::ErrorKind::StorageFull.into()),
            }
        }
        Verdict::Done
    }

    fn judge_sync(&mut self) -> Verdict {
        self.syncs += 1;
        if self.fail_sync_at == Some(self.syncs) {
            return Verdict::Lost(io::Error::other("injected fault: EIO on sync"));
        }
        Verdict::Done
    }
}
