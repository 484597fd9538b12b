//! A client's socket. All clients of a thread read through one buffer, since
//! only one of them reads at a time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::ensure;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Type};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::wire::{self, Parser};

/// Addresses that clients come from on loopback, 127.0.0.2 and up: each has
/// some 28,000 ports.
const SOURCES: usize = 8;
/// Bytes read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// The buffer of a thread.
#[derive(Debug)]
pub(super) struct Buffer(RefCell<Box<[u8]>>);

impl Default for Buffer {
    fn default() -> Self {
        Self(RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice()))
    }
}

/// A connected WebSocket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    parser: Parser,
}

impl Socket {
    /// Connects and asks for the protocol to be switched.
    pub(super) async fn upgrade(
        address: SocketAddr,
        path: &str,
        client: usize,
        buffer: &Buffer,
    ) -> anyhow::Result<Self> {
        let mut stream = connect(address, client).await?;
        let request = wire::request(&address.to_string(), path);
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        loop {
            let take = |bytes: &[u8]| head.extend_from_slice(bytes);
            ensure!(
                read(&mut stream, buffer, take).await? > 0,
                "closed during the upgrade"
            );
            if let Some(length) = wire::switched(&head)? {
                // The client speaks first in every dialect but Socket.IO, whose
                // first packet may come with the head.
                let parser = Parser::with(&head[length..]);
                return Ok(Self { stream, parser });
            }
        }
    }

    /// A socket on which frames come without any handshake.
    pub(super) async fn plain(address: SocketAddr, client: usize) -> anyhow::Result<Self> {
        let stream = connect(address, client).await?;
        Ok(Self {
            stream,
            parser: Parser::default(),
        })
    }

    /// Waits for bytes and hands over the frames that they complete.
    ///
    /// # Errors
    /// When the connection is gone or what came is no frame.
    pub(super) async fn read(
        &mut self,
        buffer: &Buffer,
        mut on: impl FnMut(u8, &[u8]),
    ) -> anyhow::Result<()> {
        let Self { stream, parser } = self;
        if parser.has_frame() {
            return parser.feed(&[], on);
        }
        let mut outcome = Ok(());
        let take = |bytes: &[u8]| outcome = parser.feed(bytes, &mut on);
        ensure!(
            read(stream, buffer, take).await? > 0,
            "closed without a close frame"
        );
        outcome
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }
}

/// Reads once through the shared buffer; gives the number of bytes, 0 at the
/// end.
async fn read(
    stream: &mut TcpStream,
    buffer: &Buffer,
    mut take: impl FnMut(&[u8]),
) -> io::Result<usize> {
    poll_fn(|context| {
        let mut shared = buffer.0.borrow_mut();
        let mut bytes = ReadBuf::new(&mut shared);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut bytes))?;
        take(bytes.filled());
        Poll::Ready(Ok(bytes.filled().len()))
    })
    .await
}

async fn connect(address: SocketAddr, client: usize) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.ip().is_loopback() && address.is_ipv4() {
        let last = 2 + u8::try_from(client % SOURCES).unwrap_or_default();
        // The port is chosen at connect, when the whole pair is known: chosen
        // now, it would be taken for every destination.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let source = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await
}
