//! `region add` and `region remove`.
//!
//! **Owns**: the flags, what is said when it is done.
//! **Does not own**: what may be added or removed (the map).

use clap::{Args, Subcommand};
use domicile_client::v1;
use domicile_proto::ErrorKind;

use super::connect::ConnectFlags;
use super::failure::Failure;
use super::output::say;

/// `region`
#[derive(Debug, Args)]
pub(crate) struct RegionCommand {
    #[command(subcommand)]
    verb: RegionVerb,
}

#[derive(Debug, Subcommand)]
enum RegionVerb {
    /// Adds a region while the cluster runs, or brings one back that was removed. Its node is
    /// started with all regions in its configuration, before or after; `keyspace alter --regions`
    /// then gives it data.
    Add {
        /// The region.
        name: String,
        /// Where the others dial it.
        #[arg(long, value_name = "HOST:PORT")]
        peer: String,
        /// It votes and holds no data.
        #[arg(long)]
        witness: bool,
        /// Its id, 1 to 65535, only where two names collide.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_535))]
        id: Option<u32>,
        #[command(flatten)]
        connect: ConnectFlags,
    },
    /// Removes a region that no keyspace lists, for good: its nodes vote no more, and return, if
    /// ever, with an empty directory.
    Remove {
        /// The region.
        name: String,
        /// Do it; else it is only said what would be done.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        connect: ConnectFlags,
    },
}

impl RegionCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            RegionVerb::Add {
                name,
                peer,
                witness,
                id,
                connect,
            } => {
                let request = v1::AddRegionRequest {
                    name: name.clone(),
                    peer,
                    witness,
                    id: id.unwrap_or(0),
                };
                let id = connect.client().await?.add_region(request).await?;
                say(format_args!(
                    "region {name} is part of the cluster, id {id}"
                ));
            }
            RegionVerb::Remove { name, yes, connect } => {
                let client = connect.client().await?;
                if !yes {
                    let keyspaces = client.keyspaces().await?;
                    let users = keyspaces.iter().filter(|it| it.regions.contains(&name));
                    let users: Vec<&str> = users.map(|it| it.name.as_str()).collect();
                    let message = match users.is_empty() {
                        true => format!(
                            "region {name} and its nodes would leave the cluster for good: \
                             say --yes"
                        ),
                        false => format!(
                            "region {name} cannot be removed: it holds {}",
                            users.join(", ")
                        ),
                    };
                    return Err(Failure::new(ErrorKind::Invalid, message).into());
                }
                client.remove_region(name.clone()).await?;
                say(format_args!("region {name} has left the cluster"));
            }
        }
        Ok(())
    }
}
