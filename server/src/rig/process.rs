//! A child process that cannot outlive its owner.
//!
//! **Owns**: starting, ending and watching one child, and the file of what it says.
//! **Does not own**: what the child does.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The first words of a command line whose process dies with its parent: see [`run_leashed`].
pub(super) const LEASH_WORDS: [&str; 2] = ["bench", "leashed"];

/// How much of a child's last words an error quotes. Doubled, the error scrolls away what it says.
const LAST_WORDS_BYTES_MAX: usize = 2000;

/// How often a waiting owner looks: a child ends once. Doubled, the end is seen twice as late.
const POLL: Duration = Duration::from_millis(5);

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this program with other arguments; what it says goes to the file `log`.
    ///
    /// The thread that calls this must live as long as the child: on Linux a child dies with it.
    ///
    /// # Errors
    /// The program cannot be started or the file not be made.
    pub fn start(name: &str, arguments: &[&str], log: &Path) -> io::Result<Self> {
        Self::start_program(&std::env::current_exe()?, name, arguments, log)
    }

    /// As [`Process::start`], of another build of this program: a test is none itself.
    ///
    /// # Errors
    /// The program cannot be started or the file not be made.
    pub fn start_program(
        program: &Path,
        name: &str,
        arguments: &[&str],
        log: &Path,
    ) -> io::Result<Self> {
        let said = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        // The settings of the owner's own run are not for its children.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"DOMICILE_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(LEASH_WORDS)
            .arg("--")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            // Ctrl-C is for the owner, who ends its children in its own order.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it without warning (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it where it is (SIGSTOP), until [`Process::signal_continue`].
    pub fn signal_stop(&self) {
        if let Some(pid) = self.raw_pid() {
            let _ = kill_process(pid, Signal::STOP);
        }
    }

    /// Lets a stopped one go on (SIGCONT).
    pub fn signal_continue(&self) {
        if let Some(pid) = self.raw_pid() {
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Kills it without warning and does not wait: it executes nothing from here on.
    pub fn signal_kill(&self) {
        if let Some(pid) = self.raw_pid() {
            // Fails only for a child that is gone; it is not reaped, so no other has its id.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Asks it to end (SIGTERM), and kills it when it has not after `patience`.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn terminate(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        if let (Some(pid), None) = (self.raw_pid(), self.child.try_wait()?) {
            kill_process(pid, Signal::TERM)?;
        }
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
        self.kill();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} did not end within {patience:?}", self.name),
        ))
    }

    fn raw_pid(&self) -> Option<Pid> {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
    }

    /// An error, with its last words, if it has ended.
    ///
    /// # Errors
    /// It has.
    pub fn check(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "unexpectedly".to_owned(),
        };
        let (name, words) = (&self.name, self.last_words());
        Err(io::Error::other(format!("{name} ended {how}: {words}")))
    }

    /// The end of what it has said.
    #[must_use]
    pub fn last_words(&self) -> String {
        let said = std::fs::read(&self.log).unwrap_or_default();
        let from = said.len().saturating_sub(LAST_WORDS_BYTES_MAX);
        String::from_utf8_lossy(&said[from..]).trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Becomes the program's command `arguments` after asking the kernel to kill this process when its
/// parent dies, so that no run leaves servers behind, not even one that is killed itself.
///
/// # Errors
/// Always, if it returns: the program could not be started.
pub fn run_leashed(arguments: &[String]) -> io::Error {
    // Other systems have no such wish; there, a run that is killed leaves its servers behind.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    match std::env::current_exe() {
        Ok(program) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}
