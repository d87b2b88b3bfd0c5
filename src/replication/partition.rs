//! `PARTITION` and `HEAL`: this node pretends not to reach a peer.

use super::ReplicationManager;
use super::contact::Contact;
use super::members::{Members, no_such_peer};
use crate::error::{Error, Result};
use crate::locks::lock;
use crate::peers::cuts::Cuts;
use crate::peers::identity::parse_id;
use crate::peers::status::PeerState;

impl ReplicationManager {
    /// Pretends that a peer (address or id), or everybody (`*`), cannot be reached.
    pub fn partition(&self, target: &str) -> Result<()> {
        let members = &self.shared.members;
        lock(members).partition(target)?;
        self.shared.inbound.close(|id, address| lock(members).is_cut_off(id, address));
        for link in self.shared.links().values() {
            if lock(members).is_cut(link.peer.number) {
                link.peer.interrupt();
                link.peer.set_state(PeerState::Partitioned);
            }
        }
        Ok(())
    }

    /// Ends the partition from one peer, an address or id, or all partitions (`*`).
    pub fn heal(&self, target: &str) -> Result<()> {
        lock(&self.shared.members).heal(target)?;
        self.shared.links().values().for_each(|link| link.peer.wake());
        Ok(())
    }
}

impl Members {
    /// From now on, pretends that a peer (an address or id), or everybody (`*`), cannot be reached.
    pub fn partition(&mut self, target: &str) -> Result<()> {
        match target {
            "*" => self.cuts = Cuts::Everybody,
            peer => self.cuts.add(self.names_of(peer)?),
        }
        Ok(())
    }

    /// Ends the partition from one peer, or all partitions (`*`).
    pub fn heal(&mut self, target: &str) -> Result<()> {
        match target {
            "*" => self.cuts = Cuts::default(),
            _ if matches!(self.cuts, Cuts::Everybody) => {
                return Err(Error::refused("everybody is cut off; HEAL ends that"));
            }
            peer => self.cuts.remove(&self.names_of(peer)?),
        }
        Ok(())
    }

    /// The addresses and the id of a peer.
    fn names_of(&self, target: &str) -> Result<Vec<String>> {
        let id = parse_id(target);
        let is_it =
            |contact: &&Contact| contact.is_at(target) || id.is_some() && contact.met_id() == id;
        let contact = self.contacts.values().find(is_it).ok_or_else(|| no_such_peer(target))?;
        let id = contact.met_id().map(|id| format!("{id:016x}"));
        Ok(contact.addresses.iter().cloned().chain(id).collect())
    }

    /// Whether the peer of a link is behind a partition.
    pub fn is_cut(&self, number: u64) -> bool {
        let Some(contact) = self.contacts.get(&number) else {
            return false;
        };
        contact.addresses.iter().any(|address| self.cuts.has(contact.id(), address))
    }

    /// Whether whoever says that this is its id and address is behind a partition.
    pub fn is_cut_off(&self, id: u64, address: &str) -> bool {
        self.cuts.has(Some(id), address)
    }
}
