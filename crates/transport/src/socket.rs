//! The byte stream below a connection, as small as the rest of the crate allows, so that TLS can
//! take the place of plain TCP.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Default bound of the kernel's send buffer per connection. Without a bound the kernel grows it to
/// megabytes, and a slow reader is noticed only when all of them are full.
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// A peer that is gone is an error of the call and no signal to the process.
const NO_SIGNAL: std::ffi::c_int = libc::MSG_NOSIGNAL;

/// A non-blocking byte stream with one reader and one writer, both on the same thread.
///
/// The `poll_` functions keep only the last waker that each was given.
pub trait Socket {
    /// Writes as much of the slices as fits at once and returns how many bytes that was.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing fits now; anything else means that the connection
    /// is broken.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes as much of one slice as fits at once, as
    /// [`try_write_vectored`](Self::try_write_vectored) does; for the path that most messages take.
    ///
    /// # Errors
    /// As there.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(bytes)])
    }

    /// Writes as much of several slices as fits at once, as
    /// [`try_write_vectored`](Self::try_write_vectored) does; for what nothing waits in front of.
    ///
    /// # Errors
    /// As there.
    fn try_write_all(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(slices)
    }

    /// Reads what has arrived; 0 means that the peer sends no more.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has arrived; anything else means that the
    /// connection is broken.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Becomes ready when [`try_read`](Self::try_read) is worth calling after it would have
    /// blocked.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Becomes ready when [`try_write_vectored`](Self::try_write_vectored) is worth calling after
    /// it would have blocked.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the peer that nothing more will be written; reading goes on.
    fn shutdown_write(&self);

    /// Ends the connection at once and throws away what was written but not yet taken by the peer.
    /// Dropping the socket instead lets the system deliver it.
    fn reset(self: Box<Self>);
}

impl Socket for TcpStream {
    #[inline]
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::try_write_vectored(self, slices)
    }

    /// Asks the system directly. The runtime's own record of what is writable is one more line of
    /// memory that is not in the cache when thousands of sockets are written in turn; it is looked
    /// at, and corrected, by whoever has to wait after all.
    #[inline]
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(self).send_with_flags(bytes, NO_SIGNAL)
    }

    /// As [`try_write`](Socket::try_write).
    #[inline]
    fn try_write_all(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        SockRef::from(self).send_vectored_with_flags(slices, NO_SIGNAL)
    }

    #[inline]
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::try_read(self, buffer)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn shutdown_write(&self) {
        // Failing only means that the connection is gone already, which the next read tells.
        SockRef::from(self).shutdown(Shutdown::Write).ok();
    }

    fn reset(self: Box<Self>) {
        // A zero linger makes the close that follows send RST and free the kernel's buffers;
        // without it they would be kept for minutes for a peer that does not read. Failing only
        // means that it was reset already.
        SockRef::from(&*self).set_linger(Some(Duration::ZERO)).ok();
    }
}

/// Bounds the kernel's send buffer of `stream` to `bytes` of payload and bookkeeping; the system's
/// own maximum (`net.core.wmem_max`) still applies, and Linux reports the double.
///
/// # Errors
/// Whatever the system answers, as on a socket that is already closed.
pub fn set_send_buffer(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    SockRef::from(stream).set_send_buffer_size(bytes)
}

/// Whether a read or write merely has to wait.
pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
