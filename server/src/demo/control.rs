//! The socket through which a second terminal reaches a running demo.
//!
//! **Owns**: the socket file, one line in and some lines out.
//! **Does not own**: what the line means (`chaos`).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::chaos::Chaos;
use crate::rig::{Cluster, Console, ExitOutcome, Stop};

/// The socket's name in the demo's directory.
const SOCKET: &str = "control.sock";

/// The longest line taken from a caller: a verb and two names. Doubled, nothing changes.
const LINE_BYTES_MAX: u64 = 1024;

/// How long a caller may take to say its line, and to read the answer.
const CALL_MAX: Duration = Duration::from_secs(5);

/// How long a verb waits for the regions while the demo itself works on them.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// How often it looks.
const POLL: Duration = Duration::from_millis(20);

/// How long `tell` waits for an answer: a restart of a large region takes longest.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The regions, shared by the story and the second terminal.
pub(super) type Shared = Arc<Mutex<Cluster>>;

/// Serves verbs until it is dropped.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    ended: Stop,
    changed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub(super) fn start(
        dir: &Path,
        cluster: Shared,
        console: Console,
        stop: Stop,
    ) -> anyhow::Result<Self> {
        let path = dir.join(SOCKET);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("no control socket at {}", path.display()))?;
        let ended = Stop::default();
        let changed = Arc::new(AtomicBool::new(false));
        let (serving, changing) = (ended.clone(), Arc::clone(&changed));
        let thread = thread::Builder::new()
            .name("demo-control".to_owned())
            .spawn(move || {
                for caller in listener.incoming() {
                    if serving.is_set() {
                        return;
                    }
                    let answered = caller.and_then(|caller| answer(&caller, &cluster, &stop));
                    match answered {
                        Ok(Some(line)) => {
                            changing.store(true, Ordering::Relaxed);
                            console.talk(&format!("second terminal: {line}"));
                        }
                        Ok(None) => {}
                        Err(error) => tracing::debug!(%error, "a caller of the demo is gone"),
                    }
                }
            })
            .context("no thread for the control socket")?;
        let thread = Some(thread);
        Ok(Self {
            path,
            ended,
            changed,
            thread,
        })
    }

    /// Whether a verb has changed anything: then figures are not those of an undisturbed run.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ended.set();
        // Wakes the listener.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // It has nothing to say, and a panic of it has been printed.
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers one caller; says which verb was done.
fn answer(caller: &UnixStream, cluster: &Shared, stop: &Stop) -> std::io::Result<Option<String>> {
    caller.set_read_timeout(Some(CALL_MAX))?;
    caller.set_write_timeout(Some(CALL_MAX))?;
    let mut line = String::new();
    BufReader::new(caller.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    let chaos = Chaos::parse(&line);
    let done = match &chaos {
        Some(chaos) => do_when_free(chaos, cluster, stop),
        None => Err(anyhow::anyhow!("unknown verb {:?}", line.trim())),
    };
    let mut caller = caller;
    match done {
        Ok(text) => {
            writeln!(caller, "{text}")?;
            let changed = chaos.filter(|chaos| *chaos != Chaos::Ls);
            Ok(changed.map(|chaos| chaos.line()))
        }
        Err(error) => {
            writeln!(caller, "error: {error:#}")?;
            Ok(None)
        }
    }
}

fn do_when_free(chaos: &Chaos, cluster: &Shared, stop: &Stop) -> anyhow::Result<String> {
    let until = Instant::now() + WAIT_MAX;
    loop {
        match cluster.try_lock() {
            Ok(mut cluster) => return chaos.apply(&mut cluster, stop),
            Err(TryLockError::Poisoned(_)) => anyhow::bail!("the demo has failed"),
            Err(TryLockError::WouldBlock) => {}
        }
        anyhow::ensure!(
            Instant::now() < until,
            "the demo is at work on its regions, ask again in a moment"
        );
        stop.sleep(POLL)?;
    }
}

/// Tells the demo that runs in `dir` what to do, and prints its answer.
///
/// # Errors
/// No demo runs there, or it does not answer.
pub fn tell(chaos: &Chaos, dir: Option<&Path>) -> anyhow::Result<ExitOutcome> {
    let dir = dir.context("name the directory of the running demo with --dir; it printed it")?;
    let path = dir.join(SOCKET);
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("no demo runs in {}", dir.display()))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    writeln!(stream, "{}", chaos.line())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (console, answer) = (Console::new(), answer.trim_end());
    if let Some(error) = answer.strip_prefix("error: ") {
        anyhow::bail!("{error}");
    }
    console.tell(answer);
    Ok(ExitOutcome::Pass)
}
