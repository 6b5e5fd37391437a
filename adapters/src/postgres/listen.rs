//! Hears of other programs' commits: one connection for all subscriptions of a handle, that sleeps in the server's LISTEN.
//!
//! A pooler in transaction mode takes LISTEN and delivers nothing, without an error. So each time after LISTEN a notification is sent to
//! ourselves over another connection; if it does not come, the feed is asked once a second instead, and `status` says so.
//! Deliberately absent: reading rows. A wake is a hint.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::connect::Server;
use super::failure::Failure;
use super::read::changed_apps;
use crate::AdapterError;
use crate::hub::{Ears, Source};

const PROOF_WITHIN: Duration = Duration::from_secs(2);
/// Between two questions where nothing is heard.
const DEAF: Duration = Duration::from_secs(1);

/// A server that is listened to.
pub(super) struct Listening(pub Arc<Server>);

impl Source for Listening {
    async fn hear(&self, ears: &Ears) -> Result<(), AdapterError> {
        self.listen(ears).await.map_err(|failure| failure.told("listen to", &self.0.settings.shown))
    }
}

impl Listening {
    async fn listen(&self, ears: &Ears) -> Result<(), Failure> {
        let (client, mut connection) = self.0.connect().await?;
        let (told, mut heard) = unbounded_channel();
        let _driver = Driver(tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(note) = message
                    && told.send(note.payload().to_owned()).is_err()
                {
                    return;
                }
            }
        }));
        client.batch_execute("LISTEN larder").await?;
        if !self.prove(&mut heard).await? {
            return self.ask(&client, ears).await;
        }
        ears.set_up(None);
        while let Some(app) = heard.recv().await {
            ears.changed(&app);
        }
        Ok(())
    }

    /// Whether a notification that another connection sends arrives here.
    async fn prove(&self, heard: &mut UnboundedReceiver<String>) -> Result<bool, Failure> {
        let (client, connection) = self.0.connect().await?;
        let _driver = Driver(tokio::spawn(async move {
            // How it ended is told to the question below.
            let _ = connection.await;
        }));
        // Random, so that no app is called so.
        let token: String =
            client.query_typed_one("SELECT md5(random()::text || clock_timestamp()::text)", &[]).await?.try_get(0)?;
        client.execute_typed("SELECT pg_notify('larder', $1)", &[(&token, Type::TEXT)]).await?;
        let wait = async {
            while let Some(payload) = heard.recv().await {
                if payload == token {
                    return true;
                }
            }
            false
        };
        Ok(tokio::time::timeout(PROOF_WITHIN, wait).await.unwrap_or(false))
    }

    /// The feed is asked instead, one question for everybody.
    async fn ask(&self, client: &Client, ears: &Ears) -> Result<(), Failure> {
        let (_, mut since) = changed_apps(client, None).await?;
        let shown = &self.0.settings.shown;
        ears.set_up(Some(format!(
            "postgres at {shown} delivers no notifications (a pooler in transaction mode does not): it is asked every second"
        )));
        loop {
            tokio::time::sleep(DEAF).await;
            let (apps, now) = changed_apps(client, Some(&since)).await?;
            since = now;
            apps.iter().for_each(|app| ears.changed(app));
        }
    }
}

/// Ends what drives a connection, however its user ends.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
