//! The host's connection, which tells when it ends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// A stream that notifies at its end, or when it is dropped.
pub struct Connection<S> {
    stream: S,
    gone: Arc<Notify>,
}

impl<S> Connection<S> {
    pub fn new(stream: S, gone: Arc<Notify>) -> Self {
        Self { stream, gone }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.gone.notify_one();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if result.is_err() || (room && buffer.filled().len() == before) {
            self.gone.notify_one();
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn end_of_the_stream_is_told() {
        let (host, guest) = tokio::io::duplex(16);
        let gone = Arc::new(Notify::new());
        let mut connection = Connection::new(guest, gone.clone());
        drop(host);
        assert_eq!(connection.read(&mut [0; 4]).await.unwrap(), 0);
        gone.notified().await;
    }
}
