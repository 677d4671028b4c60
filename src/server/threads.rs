use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of their own for what clients do: handshakes, TLS, commands, answers, ends.
///
/// A runtime carries out what is ready in about the order in which it became so. When thousands of clients come or go
/// in one moment, a message would stand behind all of them, at each step of its way. Between threads the operating
/// system divides the cores, and those that bring messages from the table to the sockets ask for little.
pub struct ClientThreads(Option<Runtime>);

impl ClientThreads {
    /// As many as there are cores.
    pub fn start() -> io::Result<Self> {
        Builder::new_multi_thread()
            .enable_all()
            .thread_name("clients")
            .build()
            .map(|runtime| Self(Some(runtime)))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken when this is dropped").handle()
    }
}

impl Drop for ClientThreads {
    fn drop(&mut self) {
        // A server ends on a thread of the other runtime, which must not wait for this one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
