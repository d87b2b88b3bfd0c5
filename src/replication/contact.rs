//! One contact: its addresses, and how this node knows who it is.

/// Addresses kept for one contact: the advertised one, the one it was named by, and one in hand.
const ADDRESSES_MAX: usize = 3;

/// Somebody this node has a link to.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    /// Where to reach it, in order; never empty.
    pub addresses: Vec<String>,
    /// Who it is. `None`: a seed that nobody has met or introduced yet.
    pub known: Option<Known>,
    /// Whether its data survives a restart, as it says itself.
    pub is_durable: bool,
    /// Whether it was named on the command line.
    pub is_seed: bool,
}

/// Who a contact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its node id.
    pub id: u64,
    /// Who says so.
    pub by: KnownBy,
}

/// How a node knows another one; what is worth more is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnownBy {
    /// It introduced itself, and was never reached.
    ItsWord,
    /// A member introduced it.
    Member,
    /// It answered on a link of ours.
    Link,
}

/// What must survive a restart of a node with stored data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// All who may hold data.
    pub members: Vec<StoredMember>,
    /// Ids that never come back.
    pub bans: Vec<u64>,
}

/// Somebody who may hold data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMember {
    /// Its node id.
    pub id: u64,
    /// Where it was last.
    pub address: String,
    /// Whether its own data survives a restart.
    pub is_durable: bool,
    /// How this node knows it.
    pub known_by: KnownBy,
}

impl Contact {
    /// A node that was named on the command line.
    pub fn seed(address: &str) -> Self {
        Contact { addresses: vec![address.into()], is_seed: true, ..Contact::default() }
    }

    /// A node that was not met yet.
    pub fn introduced(id: u64, address: &str, by: KnownBy) -> Self {
        let known = Some(Known { id, by });
        Contact { addresses: vec![address.into()], known, ..Contact::default() }
    }

    /// Its node id, by its own word or by that of others.
    pub fn id(&self) -> Option<u64> {
        self.known.map(|known| known.id)
    }

    /// Its node id, if it has said so on our own link.
    pub fn met_id(&self) -> Option<u64> {
        self.known.filter(|known| known.by == KnownBy::Link).map(|known| known.id)
    }

    /// Whether it was known at this address.
    pub fn is_at(&self, address: &str) -> bool {
        self.addresses.iter().any(|known| known == address)
    }

    /// Notes an address: the newest one, which is tried first, or one to try last.
    pub fn add_address(&mut self, address: &str, is_newest: bool) {
        if !is_newest && self.is_at(address) {
            return;
        }
        self.addresses.retain(|known| known != address);
        let at = if is_newest { 0 } else { self.addresses.len() };
        self.addresses.insert(at, address.into());
        self.addresses.truncate(ADDRESSES_MAX);
    }

    /// As it is stored, if it may hold data.
    pub fn stored(&self) -> Option<StoredMember> {
        let Known { id, by } = self.known?;
        let (address, is_durable) = (self.addresses[0].clone(), self.is_durable);
        Some(StoredMember { id, address, is_durable, known_by: by })
    }
}

impl From<&StoredMember> for Contact {
    fn from(member: &StoredMember) -> Self {
        Contact {
            addresses: vec![member.address.clone()],
            known: Some(Known { id: member.id, by: member.known_by }),
            is_durable: member.is_durable,
            is_seed: false,
        }
    }
}
