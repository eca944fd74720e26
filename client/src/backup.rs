//! A backup, piece by piece, as a node gives it.
//!
//! **Owns**: the stream and its end.
//! **Does not own**: what the pieces are, where they are kept (whoever asked).

use domicile_proto::v1;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::call::admin;
use crate::error::ClientError;

/// The pieces of one backup. Nothing is repeated: after an error it has to be asked for anew.
#[derive(Debug)]
pub struct BackupPieces {
    pieces: Streaming<v1::BackupResponse>,
}

impl BackupPieces {
    pub(crate) async fn begin(
        channel: Channel,
        request: v1::BackupRequest,
    ) -> Result<Self, ClientError> {
        let begun = admin(channel).backup(request).await;
        let pieces = begun.map_err(ClientError::from_status)?.into_inner();
        Ok(Self { pieces })
    }

    /// The next piece; `None` behind the last.
    ///
    /// # Errors
    /// Why the node gave it up, or a connection that broke.
    pub async fn next(&mut self) -> Result<Option<v1::BackupResponse>, ClientError> {
        self.pieces
            .message()
            .await
            .map_err(ClientError::from_status)
    }
}
