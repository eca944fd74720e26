//! A `domicile serve` process of this build.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use domicile_client::{Client, ClientOptions};

/// How long a process may take to say that it is ready.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) client: SocketAddr,
    pub(crate) log: PathBuf,
}

/// An address that was free a moment ago, on a loopback address that nobody connects from.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 77, 8, 1), 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Configuration of a single region with its data in `directory`, whose journal is so small that it
/// is cut all the time.
pub(crate) fn configuration(directory: &Path, client: SocketAddr, peer: SocketAddr) -> String {
    let data = directory.join("data");
    format!(
        "[cluster]\nname = \"test\"\n\n[node]\nregion = \"eu\"\ndata = {data:?}\n\
         listen_client = \"{client}\"\nlisten_peer = \"{peer}\"\nlisten_http = \"\"\n\
         journal_file_bytes = 1048576\njournal_keep_bytes = 2097152\n\n\
         [[region]]\nname = \"eu\"\n\n\
         [[keyspace]]\nname = \"users\"\nplacement = {{ pinned = \"eu\" }}\n"
    )
}

impl Server {
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, "sled")
    }

    /// With this engine.
    pub(crate) fn start_with(directory: &Path, engine: &str) -> Self {
        let mut server = Self::spawn(directory, engine);
        server.wait_ready();
        server
    }

    /// As [`Server::start_with`], without waiting until it is ready.
    pub(crate) fn spawn(directory: &Path, engine: &str) -> Self {
        let (client, peer) = (free_address(), free_address());
        let config = directory.join("domicile.toml");
        std::fs::write(&config, configuration(directory, client, peer)).unwrap();
        let log = directory.join("serve.log");
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_domicile"))
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env("DOMICILE_ENGINE", engine)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, client, log }
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = BufReader::new(std::fs::File::open(&self.log).unwrap());
            if log
                .lines()
                .any(|line| line.unwrap().contains("domicile ready"))
            {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("serve ended with {status}: {}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "not ready within {PATIENCE:?}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        let mut options = ClientOptions::endpoints([format!("http://{}", self.client)]);
        options.timeout = Duration::from_secs(10);
        options.retry = domicile_client::Retry::Never;
        Client::with_options(options).unwrap()
    }

    /// SIGKILL, to this process only.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
