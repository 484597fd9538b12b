//! The Socket.IO part of sessions that move to another engine: what is taken along, and how it is
//! taken up again.

use std::rc::Rc;

use tokio::time::Instant;

use super::{Client, DisconnectReason, Handler, Member, MemberState, Socket, SocketIo};
use crate::{
    EndReason, Malformed,
    codec::{Assembler, AssemblyLimits, SocketPacket, decode_socket_packet},
    engine::{ClientState, PartialMessage, Session},
};

impl<H: Handler> SocketIo<H> {
    pub(super) fn freeze_client(&self, client: &Client<H>) -> Option<ClientState> {
        let opening = self.handler.freeze_opening(&client.opening)?;
        let members: Vec<(Socket, Rc<H::Data>)> = client
            .members
            .borrow()
            .iter()
            .map(|member| match &member.state {
                MemberState::In(data) => Some((member.socket.clone(), Rc::clone(data))),
                MemberState::Connecting(..) => None,
            })
            .collect::<Option<_>>()?;
        let sockets = members.iter().map(|(socket, data)| {
            // One that this side has ended is about to be told so to the handler.
            let data = (socket.is_connected()).then(|| self.handler.freeze(socket, data))??;
            Some(socket.freeze(data))
        });
        let now = Instant::now();
        Some(ClientState {
            opening,
            lonely_for: client
                .lonely_until
                .get()
                .map(|until| until.saturating_duration_since(now)),
            left_any: client.left_any.get(),
            partial: client.assembler.borrow().as_ref().map(|assembler| {
                let (packet, attachments) = assembler.so_far();
                PartialMessage {
                    packet,
                    attachments,
                }
            }),
            sockets: sockets.collect::<Option<_>>()?,
        })
    }

    /// Takes the members of a session up again, one after the other. False if the handler cannot.
    pub(super) async fn thaw_client(
        &self,
        session: &Rc<Session<Self>>,
        state: ClientState,
    ) -> bool {
        let (link, client) = (&session.link, &session.data);
        client.left_any.set(state.left_any);
        let until = state.lonely_for.map(|left| Instant::now() + left);
        client.lonely_until.set(until);
        if let Some(until) = until {
            link.set_deadline(until);
        }
        if let Some(partial) = state.partial {
            let Ok(assembler) = reassemble(partial, &self.options.assembly) else {
                return false;
            };
            *client.assembler.borrow_mut() = Some(Box::new(assembler));
        }
        for state in state.sockets {
            let max_acks = self.options.max_pending_acks;
            let (socket, data) = Socket::thaw(state, Rc::clone(link), max_acks);
            let opening = Rc::clone(&client.opening);
            let handler = Rc::clone(&self.handler);
            let Some(data) = handler.thaw(socket.clone(), opening, data).await else {
                return false;
            };
            let data = Rc::new(data);
            if link.is_ended() {
                socket.leave();
                let reason = DisconnectReason::Ended(EndReason::TransportError);
                self.handler.disconnect(&socket, &data, reason);
                return false;
            }
            let mut members = client.members.borrow_mut();
            members.reserve_exact(1);
            members.push(Member {
                socket: socket.clone(),
                state: MemberState::In(Rc::clone(&data)),
            });
            drop(members);
            socket.resume();
            self.handler.thawed(&socket, &data);
        }
        true
    }
}

/// A message whose attachments have not all come, as far as they have.
fn reassemble(partial: PartialMessage, limits: &AssemblyLimits) -> Result<Assembler, Malformed> {
    let SocketPacket::Message {
        header,
        attachments,
        payload,
    } = decode_socket_packet(&partial.packet, limits.attachments)?
    else {
        return Err(Malformed::SocketType);
    };
    let mut assembler = Assembler::new(header, attachments, payload, limits)?;
    for attachment in partial.attachments {
        if assembler.take(attachment)?.is_some() {
            return Err(Malformed::AttachmentCount);
        }
    }
    Ok(assembler)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn messages_under_way_go_on_where_they_were() {
        let limits = AssemblyLimits {
            attachments: 10,
            bytes: 1_000,
        };
        let pair = "[{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]";
        for head in ["52-", "52-7", "52-/n,", "52-/n,7", "62-7", "62-/n,7"] {
            let packet = format!("{head}{pair}");
            let partial = |attachments: &[&'static [u8]]| PartialMessage {
                packet: packet.clone(),
                attachments: attachments
                    .iter()
                    .map(|bytes| Bytes::from_static(bytes))
                    .collect(),
            };
            let mut assembler = reassemble(partial(&[]), &limits).unwrap();
            assert_eq!(assembler.take(Bytes::from_static(b"a")), Ok(None));
            let (told, attachments) = assembler.so_far();
            assert_eq!((told.as_str(), attachments.len()), (packet.as_str(), 1));
            let mut again = reassemble(partial(&[b"a"]), &limits).unwrap();
            let last = Bytes::from_static(b"b");
            let whole = again.take(last.clone()).unwrap().unwrap();
            assert_eq!(whole, assembler.take(last).unwrap().unwrap());
            assert!(
                reassemble(partial(&[b"a", b"b"]), &limits).is_err(),
                "whole already"
            );
        }
        for packet in ["", "2[\"a\"]x", "40", "41", "511-[]"] {
            let partial = PartialMessage {
                packet: packet.to_owned(),
                attachments: Vec::new(),
            };
            assert!(reassemble(partial, &limits).is_err(), "{packet}");
        }
    }
}
