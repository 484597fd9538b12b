//! A WebSocket client made by hand, so that a test controls every byte, its
//! source address and its buffers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use signalbox_testkit::DEADLINE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// First header byte of a text message in one frame.
pub(crate) const TEXT: u8 = 0x81;
/// First header byte of a binary message in one frame.
pub(crate) const BINARY: u8 = 0x82;
/// First header byte of a Close frame.
pub(crate) const CLOSE: u8 = 0x88;
/// First header byte of a Ping frame.
pub(crate) const PING: u8 = 0x89;

const MASK: [u8; 4] = [0x9e, 0x37, 0x79, 0xb9];

/// Loopback address 127.0.0.`last`.
pub(crate) fn local(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// A TCP connection from `source`; `receive_buffer` bounds what the kernel
/// takes for a client that does not read.
pub(crate) async fn connect(
    source: IpAddr,
    target: SocketAddr,
    receive_buffer: Option<u32>,
) -> TcpStream {
    try_connect(source, target, receive_buffer).await.unwrap()
}

/// As [`connect`], to a gateway that may reset the connection at once.
pub(crate) async fn try_connect(
    source: IpAddr,
    target: SocketAddr,
    receive_buffer: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let stream = timeout(DEADLINE, socket.connect(target)).await.unwrap()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An HTTP answer: status, head and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The code in an error of ours.
    pub(crate) fn code(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["error"]["code"].clone()
    }
}

/// An upgraded connection.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    /// Asks to upgrade with a further header line, or gives the refusal.
    pub(crate) async fn try_upgrade(stream: TcpStream, header: &str) -> Result<Self, Answer> {
        Self::try_upgrade_at(stream, "/v1/ws", header).await
    }

    /// As [`try_upgrade`](Self::try_upgrade), at a path of the test's choice.
    pub(crate) async fn try_upgrade_at(
        mut stream: TcpStream,
        path: &str,
        header: &str,
    ) -> Result<Self, Answer> {
        let target = stream.peer_addr().unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n"
        );
        timeout(DEADLINE, async {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            if status == 101 {
                return Ok(Self(stream));
            }
            let mut body = String::new();
            stream.read_to_string(&mut body).await.unwrap();
            Err(Answer { status, head, body })
        })
        .await
        .unwrap()
    }

    /// An upgraded connection that has not authenticated.
    pub(crate) async fn stranger(source: IpAddr, target: SocketAddr) -> Self {
        let stream = connect(source, target, None).await;
        Self::try_upgrade(stream, "").await.unwrap()
    }

    /// An authenticated connection.
    pub(crate) async fn open(target: SocketAddr, token: &str) -> Self {
        Self::open_over(connect(local(1), target, None).await, token).await
    }

    /// Authenticates over this TCP connection.
    pub(crate) async fn open_over(stream: TcpStream, token: &str) -> Self {
        let header = format!("Authorization: Bearer {token}\r\n");
        let mut raw = Self::try_upgrade(stream, &header).await.unwrap();
        assert_eq!(raw.json().await["type"], "auth_success");
        raw
    }

    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload)).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.0.write_all(bytes))
            .await
            .unwrap()
            .unwrap();
    }

    /// The next text frame, as JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let (first, payload) = self.receive().await.unwrap();
        assert_eq!(first, TEXT);
        serde_json::from_slice(&payload).unwrap()
    }

    /// The next frame, first header byte and payload, or why there is none.
    pub(crate) async fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        timeout(DEADLINE, async {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).await?;
            let len = match head[1] {
                126 => usize::from(self.0.read_u16().await?),
                127 => usize::try_from(self.0.read_u64().await?).unwrap(),
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            self.0.read_exact(&mut payload).await?;
            Ok((head[0], payload))
        })
        .await
        .unwrap()
    }

    /// The code of the Close frame, after whatever else comes before it.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            let (first, payload) = self.receive().await.unwrap();
            if first == CLOSE {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

/// One masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0x80);
    frame.extend(MASK);
    let masked = payload
        .iter()
        .zip(MASK.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    frame.extend(masked);
    frame
}

/// The header of a frame up to its mask.
pub(crate) fn header(first: u8, len: usize, mask_bit: u8) -> Vec<u8> {
    let mut header = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => header.push(mask_bit | len),
        (_, Ok(len)) => {
            header.push(mask_bit | 126);
            header.extend(len.to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header
}
