//! A bare gRPC server: what this machine, this runtime and this client could do at most.
//!
//! **Owns**: the two bare servers, one that does nothing and one that group-commits to one file.
//! **Does not own**: the load on them, which is the same as on a node.
//!
//! The second one is the smallest server that keeps the promise of an asynchronous put: the answer
//! comes after an `fdatasync` that covers the write. It has no index, no copies, no recovery.
//!
//! ```text
//! put -> channel -> one thread: all that is queued -> one write -> one fdatasync -> answers
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use domicile_proto::v1::kv_server::{Kv, KvServer};
use domicile_proto::v1::{
    BatchRequest, CompareAndSetRequest, DeleteRequest, GetRequest, GetResponse, OutcomeRequest,
    OutcomeResponse, PutRequest, ScanRequest, ScanResponse, WatchRequest, WatchResponse,
    WriteRequest, WriteResponse, WriteResult,
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

/// Bytes of the file, allocated beforehand as a journal's are. When it is full the writes go on at
/// its front: doubled, that happens half as often, and not at all within a run.
const FILE_BYTES: u64 = 1 << 30;

/// The most writes of one commit, as many as can be outstanding in any bench. Doubled, nothing
/// changes.
const COMMIT_WRITES_MAX: usize = 16_384;

/// What the bare server does with a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CeilingMode {
    /// Answers at once.
    Noop,
    /// Answers after a group commit.
    Commit,
}

impl CeilingMode {
    /// The word for it on a command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Commit => "commit",
        }
    }
}

/// Where the server listens, what it does, and where its file is.
#[derive(Clone, Debug)]
pub struct CeilingOptions {
    /// What it does.
    pub mode: CeilingMode,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The directory of its file.
    pub data: PathBuf,
}

/// Serves until the process is killed.
///
/// # Errors
/// The file cannot be made or the address not be listened on.
pub fn serve_ceiling(options: &CeilingOptions) -> anyhow::Result<()> {
    let commits = match options.mode {
        CeilingMode::Noop => None,
        CeilingMode::Commit => Some(start_commits(&options.data)?),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(KvServer::new(Ceiling { commits }))
        .serve(options.listen);
    runtime
        .block_on(serving)
        .with_context(|| format!("cannot serve at {}", options.listen))
}

struct Pending {
    key: Bytes,
    value: Bytes,
    done: oneshot::Sender<()>,
}

fn start_commits(data: &Path) -> anyhow::Result<Sender<Pending>> {
    let path = data.join("ceiling.journal");
    let file = allocated(&path, FILE_BYTES)
        .with_context(|| format!("cannot allocate {}", path.display()))?;
    let (sender, receiver) = channel();
    thread::Builder::new()
        .name("ceiling-commit".to_owned())
        .spawn(move || commit_until_closed(&file, &receiver))
        .context("no thread")?;
    Ok(sender)
}

/// A file whose blocks exist, so that a sync need not persist a new length.
pub(super) fn allocated(path: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()?;
    Ok(file)
}

fn commit_until_closed(file: &File, receiver: &Receiver<Pending>) {
    let (mut buffer, mut batch, mut offset) = (BytesMut::new(), Vec::new(), 0);
    while let Ok(first) = receiver.recv() {
        batch.push(first);
        while batch.len() < COMMIT_WRITES_MAX
            && let Ok(next) = receiver.try_recv()
        {
            batch.push(next);
        }
        buffer.clear();
        for Pending { key, value, .. } in &batch {
            buffer.put_u32_le(key.len() as u32);
            buffer.put_u32_le(value.len() as u32);
            buffer.put_slice(key);
            buffer.put_slice(value);
        }
        if offset + buffer.len() as u64 > FILE_BYTES {
            offset = 0;
        }
        let written = file.write_all_at(&buffer, offset);
        if let Err(error) = written.and_then(|()| file.sync_data()) {
            tracing::error!(%error, "the ceiling's file cannot be written");
            return;
        }
        offset += buffer.len() as u64;
        for pending in batch.drain(..) {
            // The caller may have gone; the write is done.
            let _ = pending.done.send(());
        }
    }
}

struct Ceiling {
    commits: Option<Sender<Pending>>,
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the bare server only puts"))
}

#[tonic::async_trait]
impl Kv for Ceiling {
    type WriteStream = futures::stream::Empty<Result<WriteResult, Status>>;
    type WatchStream = futures::stream::Empty<Result<WatchResponse, Status>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        let Some(commits) = &self.commits else {
            return Ok(Response::new(WriteResponse::default()));
        };
        let PutRequest { key, value, .. } = request.into_inner();
        let (done, written) = oneshot::channel();
        let ended = || Status::data_loss("the ceiling's file cannot be written");
        let pending = Pending { key, value, done };
        commits.send(pending).map_err(|_| ended())?;
        written.await.map_err(|_| ended())?;
        Ok(Response::new(WriteResponse::default()))
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        not_here()
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        not_here()
    }

    async fn compare_and_set(
        &self,
        _: Request<CompareAndSetRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        not_here()
    }

    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<WriteResponse>, Status> {
        not_here()
    }

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        not_here()
    }

    async fn write(
        &self,
        _: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        not_here()
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        not_here()
    }

    async fn outcome(
        &self,
        _: Request<OutcomeRequest>,
    ) -> Result<Response<OutcomeResponse>, Status> {
        not_here()
    }
}
