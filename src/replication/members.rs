//! Who is in the cluster: decisions without sockets, threads or clocks.
//!
//! A *contact* is somebody this node has a link to: a seed from the command line, a node that
//! another one introduced, or a *member*, which has said who it is on a link of our own. Members
//! are known by node id, not by address, so a node may come back elsewhere, and two spellings of
//! one address are one member.
//!
//! **The rules.**
//! - One contact for each node id; the newest advertised address is tried first, the one that
//!   worked before next.
//! - Who introduced itself is remembered, and stored, though this node may never have reached it:
//!   it can send its data here, so it can bring back what was deleted here. Only a node that nobody
//!   ever introduced itself to is alone.
//! - Members are introduced to others, and so is whom another member introduced: who is away with
//!   old data must be remembered when all that met it have lost their memory, or deletes would be
//!   forgotten without it ([`super::tombstones`]). What only a stranger said of itself does not
//!   spread.
//! - An in-memory node that answers with a new id has been restarted: the old id is gone with its
//!   data. A node with stored data stays a member until it is forgotten, as it may return with old
//!   data.
//! - A banned id never comes back. Bans travel with every introduction.
//! - One id with two run ids in turn is a copied data directory: both are refused (`runs`).
//!
//! **Strangers.** Whoever may connect may introduce itself, take one of the [`MEMBERS_MAX`] places,
//! hold up the forgetting of deletes, and answer in a member's name. With a password, the password
//! is the boundary: whoever has it is trusted like a member. Without one, and without `--insecure`,
//! only programs of this machine can connect, and a node dials only this machine and the addresses
//! named with `--peer` ([`Dials`]): an introduction with any other address is refused, so that
//! nobody can make the node connect elsewhere. With `--insecure` everybody is trusted. `PEER
//! FORGET` frees a place.

use std::collections::{BTreeMap, BTreeSet};

use super::contact::{Contact, Known, KnownBy, Stored};
use crate::addresses::is_of_this_machine;
use crate::config::{BANS_MAX, Dials};
use crate::error::{Error, Result};
use crate::guard::shown;
use crate::peers::cuts::Cuts;
use crate::peers::identity::{Identity, may_not_dial, parse_id};
use crate::peers::introduction::{Introduction, MEMBERS_MAX, Way, other_way};
use crate::peers::runs::{Runs, copied_directory};

/// What became of an introduction on one of our own links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is a member.
    Member,
    /// Why the link cannot be used; it is tried again later.
    Refused(String),
    /// The contact is gone: it is this node itself, or another name for a member.
    Gone,
}

/// All contacts and bans of a node.
///
/// Invariants:
/// - `one_contact_for_each_node_id`, counting those that were only introduced.
/// - No contact has a banned id.
#[derive(Debug)]
pub struct Members {
    identity: Identity,
    pub(super) contacts: BTreeMap<u64, Contact>,
    bans: BTreeSet<u64>,
    next_number: u64,
    contacts_max: usize,
    pub(super) cuts: Cuts,
    dials: Dials,
    seeds: BTreeSet<String>,
    /// The run ids of each contact.
    runs: BTreeMap<u64, Runs>,
}

impl Members {
    /// The seeds, and what was stored of an earlier run.
    pub fn new(
        identity: Identity,
        seeds: &[String],
        dials: Dials,
        stored: &Stored,
        contacts_max: usize,
    ) -> Self {
        let mut members = Members {
            identity,
            contacts: BTreeMap::new(),
            bans: stored.bans.iter().copied().collect(),
            next_number: 1,
            contacts_max,
            cuts: Cuts::default(),
            dials,
            seeds: seeds.iter().cloned().collect(),
            runs: BTreeMap::new(),
        };
        stored.members.iter().for_each(|member| members.add(member.into()));
        for seed in seeds {
            if let Some(contact) = members.by_address(seed) {
                contact.is_seed = true;
            } else {
                members.add(Contact::seed(seed));
            }
        }
        members
    }

    /// What this node says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The contacts, by the number of their link.
    pub fn contacts(&self) -> &BTreeMap<u64, Contact> {
        &self.contacts
    }

    /// Ids and addresses of the members, and of those that other members call so: what is told to
    /// others.
    pub fn members(&self) -> Vec<(u64, String)> {
        let known = self.contacts.values().filter_map(|contact| Some((contact.known?, contact)));
        let told = known.filter(|(known, _)| known.by >= KnownBy::Member);
        let words = told.map(|(known, contact)| (known.id, contact.addresses[0].clone()));
        words.take(MEMBERS_MAX).collect()
    }

    /// Whether nobody ever introduced itself here, and nobody was named: nobody can bring back what
    /// is deleted here.
    pub fn is_alone(&self) -> bool {
        self.contacts.is_empty()
    }

    /// Whether this node may connect to an address.
    pub fn may_dial(&self, address: &str) -> bool {
        self.dials == Dials::Everybody
            || self.seeds.contains(address)
            || is_of_this_machine(address)
    }

    /// What must survive a restart.
    pub fn stored(&self) -> Stored {
        let members = self.contacts.values().filter_map(Contact::stored).collect();
        Stored { members, bans: self.bans() }
    }

    /// The banned ids.
    pub fn bans(&self) -> Vec<u64> {
        self.bans.iter().copied().collect()
    }

    /// All who may hold data, by the numbers of their links: members, and those that only
    /// introduced themselves or were introduced. A seed that was never met is not among them.
    pub fn holders(&self) -> BTreeMap<u64, u64> {
        let contacts = self.contacts.iter();
        contacts.filter_map(|(number, contact)| Some((*number, contact.id()?))).collect()
    }

    /// Somebody connected and introduced itself. Whether it may stay; an error says why not.
    pub fn heard(&mut self, from: &Introduction) -> Result<()> {
        self.check(from)?;
        if from.node_id == self.identity.node_id {
            // A seed of ours that is ourselves: our own link will find out.
            return Ok(());
        }
        if !self.may_dial(&from.address) {
            return Err(may_not_dial(&from.address));
        }
        self.learn(from.node_id, &from.address, KnownBy::ItsWord)?;
        self.note_run(from)?;
        if let Some(contact) =
            self.find(from.node_id).and_then(|number| self.contacts.get_mut(&number))
        {
            contact.is_durable = from.is_durable;
        }
        Ok(())
    }

    /// The peer of link `number`, reached at `address`, answered our introduction.
    pub fn answered(&mut self, number: u64, address: &str, by: &Introduction) -> Verdict {
        if let Err(refusal) = self.check(by) {
            return Verdict::Refused(refusal.to_string());
        }
        if by.node_id == self.identity.node_id {
            return self.met_myself(number, address);
        }
        if by.bans.contains(&self.identity.node_id) {
            return Verdict::Refused("forgotten: start with an empty directory".into());
        }
        if let Err(refusal) = self.take_bans(&by.bans) {
            return Verdict::Refused(refusal.to_string());
        }
        let verdict = self.confirm(number, address, by);
        if let Err(refusal) = self.note_run(by) {
            return Verdict::Refused(refusal.to_string());
        }
        for (id, address) in &by.members {
            // At our own address: who was here before us, with the data that is gone.
            let is_here = self.identity.address.as_ref() == Ok(address);
            if *id != self.identity.node_id
                && !self.bans.contains(id)
                && !is_here
                && self.may_dial(address)
            {
                // Too many: they are refused when they connect, and counted there.
                let _ = self.learn(*id, address, KnownBy::Member);
            }
        }
        verdict
    }

    /// Numbers of the links to whoever has this id, or is thought to be at this address.
    pub fn links_to(&self, id: u64, address: &str) -> Vec<u64> {
        self.numbers_of(|contact| contact.id() == Some(id) || contact.is_at(address))
    }

    /// Tells under which address this node can be reached, or why not.
    pub fn set_address(&mut self, address: std::result::Result<String, String>) {
        self.identity.address = address;
    }

    /// Bans whoever has this id or address for good. Returns the numbers of the links that end.
    pub fn forget(&mut self, target: &str) -> Result<Vec<u64>> {
        let id = parse_id(target);
        if id == Some(self.identity.node_id) || self.identity.address.as_deref() == Ok(target) {
            return Err(Error::refused("a node cannot forget itself"));
        }
        let meant =
            self.numbers_of(|contact| contact.is_at(target) || id.is_some() && contact.id() == id);
        if meant.is_empty() && id.is_none() {
            return Err(no_such_peer(target));
        }
        let ids = meant.iter().filter_map(|number| self.contacts.get(number)?.id()).chain(id);
        let ids: Vec<u64> = ids.collect();
        self.take_bans(&ids)?;
        meant.iter().for_each(|number| drop(self.contacts.remove(number)));
        Ok(meant)
    }

    /// Bans ids for good, all or none: one that is not kept would come back.
    fn take_bans(&mut self, ids: &[u64]) -> Result<()> {
        let new: BTreeSet<u64> = ids.iter().copied().filter(|id| !self.bans.contains(id)).collect();
        if self.bans.len() + new.len() > BANS_MAX {
            return Err(Error::refused(format!(
                "there would be more than {BANS_MAX} forgotten nodes, the most a cluster \
                 remembers; start a new cluster with another --cluster and copy the data with \
                 kvstore export"
            )));
        }
        let is_banned = |contact: &Contact| contact.id().is_some_and(|id| new.contains(&id));
        self.contacts.retain(|_, contact| !is_banned(contact));
        self.runs.retain(|id, _| !new.contains(id));
        self.bans.extend(new);
        Ok(())
    }

    /// Notes in which run a node is; refuses it if two of its runs are alive.
    fn note_run(&mut self, of: &Introduction) -> Result<()> {
        if self.find(of.node_id).is_none() {
            return Ok(());
        }
        let known: BTreeSet<u64> = self.contacts.values().filter_map(Contact::id).collect();
        self.runs.retain(|id, _| known.contains(id));
        let runs = self.runs.entry(of.node_id).or_default();
        runs.heard(of.run_id);
        if runs.are_two_alive() { Err(copied_directory(of.node_id)) } else { Ok(()) }
    }

    /// Checks what must be right in both directions.
    fn check(&self, other: &Introduction) -> Result<()> {
        if other.way != Way::Eventual {
            return Err(other_way());
        }
        if other.cluster != self.identity.cluster {
            return Err(Error::refused(format!(
                // Both sides read this sentence.
                "the node at {} is of cluster '{}', and the node at {} of '{}'; start both with \
                 the same --cluster",
                shown(&other.address),
                shown(&other.cluster),
                self.identity.address.as_deref().unwrap_or("the address that was dialled"),
                self.identity.cluster
            )));
        }
        if other.node_id == self.identity.node_id && other.run_id != self.identity.run_id {
            return Err(copied_directory(other.node_id));
        }
        if self.bans.contains(&other.node_id) {
            return Err(Error::refused("forgotten: start with an empty directory"));
        }
        Ok(())
    }

    fn met_myself(&mut self, number: u64, address: &str) -> Verdict {
        let Some(contact) = self.contacts.get(&number) else {
            return Verdict::Gone;
        };
        if contact.is_seed && contact.known.is_none() {
            self.contacts.remove(&number);
            log::info!("the peer {address} is this node itself and is left out");
            return Verdict::Gone;
        }
        Verdict::Refused(format!(
            "{address} is this node itself; start that peer with an --advertise HOST:PORT that \
             leads to it"
        ))
    }

    /// The peer of link `number` is `by`: makes it a member, under this link or the one it has.
    fn confirm(&mut self, number: u64, address: &str, by: &Introduction) -> Verdict {
        let other = self.find(by.node_id).filter(|other| *other != number);
        let Some(contact) = self.contacts.get_mut(&number) else {
            return Verdict::Gone;
        };
        if let Some(id) = contact.id()
            && id != by.node_id
            && contact.is_durable
        {
            if other.is_none() && self.contacts.len() < self.contacts_max {
                self.add(Contact::introduced(by.node_id, address, KnownBy::ItsWord));
            }
            return Verdict::Refused(format!(
                "{:016x} answers at {address}, not {id:016x}, which has stored data; PEER FORGET \
                 {id:016x} if it is gone",
                by.node_id
            ));
        }
        if let Some(other) = other {
            // Two addresses of one node: the link that is older stays and learns the other address.
            let duplicate = self.contacts.remove(&number).unwrap_or_default();
            if let Some(kept) = self.contacts.get_mut(&other) {
                kept.is_seed |= duplicate.is_seed;
                duplicate.addresses.iter().for_each(|address| kept.add_address(address, false));
            }
            return Verdict::Gone;
        }
        contact.known = Some(Known { id: by.node_id, by: KnownBy::Link });
        contact.is_durable = by.is_durable;
        if self.may_dial(&by.address)
            && let Some(contact) = self.contacts.get_mut(&number)
        {
            contact.add_address(&by.address, true);
        }
        Verdict::Member
    }

    /// Notes where a node is, as it says itself (then that is the newest) or as a member says;
    /// makes it a contact if it is none.
    fn learn(&mut self, id: u64, address: &str, known_by: KnownBy) -> Result<()> {
        if let Some(contact) = self.find(id).and_then(|number| self.contacts.get_mut(&number)) {
            contact.add_address(address, known_by == KnownBy::ItsWord);
            let by = contact.known.map_or(known_by, |known| known.by.max(known_by));
            contact.known = Some(Known { id, by });
            return Ok(());
        }
        if let Some(contact) = self.by_address(address) {
            // Otherwise its own link will find out who answers there now. Until then the one that
            // was known there counts as a holder of data, for both of them.
            if contact.met_id().is_none() && !contact.is_durable {
                contact.known = Some(Known { id, by: known_by });
            }
            return Ok(());
        }
        if self.contacts.len() >= self.contacts_max {
            return Err(Error::refused(format!(
                "there are {} peers already, the most a node has; PEER FORGET those that are gone",
                self.contacts_max
            )));
        }
        self.add(Contact::introduced(id, address, known_by));
        Ok(())
    }

    fn add(&mut self, contact: Contact) {
        self.contacts.insert(self.next_number, contact);
        self.next_number += 1;
    }

    fn find(&self, id: u64) -> Option<u64> {
        let mut contacts = self.contacts.iter();
        contacts.find(|(_, contact)| contact.id() == Some(id)).map(|(number, _)| *number)
    }

    fn by_address(&mut self, address: &str) -> Option<&mut Contact> {
        self.contacts.values_mut().find(|contact| contact.is_at(address))
    }

    fn numbers_of(&self, is_it: impl Fn(&Contact) -> bool) -> Vec<u64> {
        let contacts = self.contacts.iter();
        contacts.filter(|(_, contact)| is_it(contact)).map(|(number, _)| *number).collect()
    }
}

pub(super) fn no_such_peer(target: &str) -> Error {
    Error::refused(format!("no peer has the address or id '{target}'; PEERS lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(node_id: u64) -> Identity {
        Identity {
            node_id,
            run_id: node_id + 1_000,
            cluster: "c".into(),
            is_durable: false,
            address: Ok(format!("n{node_id}:1")),
        }
    }

    fn members(seeds: &[&str]) -> Members {
        let seeds: Vec<String> = seeds.iter().map(|seed| seed.to_string()).collect();
        Members::new(identity(1), &seeds, Dials::Everybody, &Stored::default(), 10)
    }

    fn says(node_id: u64, address: &str) -> Introduction {
        Introduction {
            cluster: "c".into(),
            node_id,
            run_id: node_id + 1_000,
            address: address.into(),
            ..Introduction::default()
        }
    }

    fn durable(node_id: u64, address: &str) -> Introduction {
        Introduction { is_durable: true, ..says(node_id, address) }
    }

    #[test]
    fn a_seed_that_is_this_node_disappears_and_a_peer_that_leads_here_is_shown() {
        let mut members = members(&["alias:1"]);
        assert_eq!(members.answered(1, "alias:1", &says(1, "n1:1")), Verdict::Gone);
        assert!(members.contacts().is_empty());
        members.heard(&says(2, "n1:1")).expect("it may have the right address later");
        let verdict = members.answered(2, "n1:1", &says(1, "n1:1"));
        assert!(matches!(verdict, Verdict::Refused(ref why) if why.contains("--advertise")));
    }

    #[test]
    fn a_restarted_in_memory_node_takes_its_place_and_a_durable_one_keeps_it() {
        let mut members = members(&["n2:1", "n3:1"]);
        assert_eq!(members.answered(1, "n2:1", &says(2, "n2:1")), Verdict::Member);
        assert_eq!(members.answered(1, "n2:1", &says(20, "n2:1")), Verdict::Member);
        assert_eq!(members.members(), [(20, "n2:1".to_string())]);
        assert_eq!(members.answered(2, "n3:1", &durable(3, "n3:1")), Verdict::Member);
        let verdict = members.answered(2, "n3:1", &says(30, "n3:1"));
        assert!(matches!(verdict, Verdict::Refused(ref why) if why.contains("PEER FORGET")));
        assert_eq!(members.answered(3, "n3:1", &says(30, "n3:1")), Verdict::Member);
        let ids: Vec<u64> = members.members().iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [20, 3, 30]);
    }

    #[test]
    fn whom_a_member_introduced_is_introduced_to_others_and_a_stranger_is_not() {
        let mut members = members(&["n2:1"]);
        let answer = Introduction { members: vec![(3, "n3:1".into())], ..says(2, "n2:1") };
        assert_eq!(members.answered(1, "n2:1", &answer), Verdict::Member);
        members.heard(&says(4, "n4:1")).expect("it may stay");
        assert_eq!(members.members(), [(2, "n2:1".into()), (3, "n3:1".into())]);
        assert_eq!(members.holders(), BTreeMap::from([(1, 2), (2, 3), (3, 4)]));
    }

    #[test]
    fn who_only_introduced_itself_is_remembered_and_not_taken_for_more_after_a_restart() {
        let mut members = members(&["n2:1"]);
        assert!(!members.is_alone());
        let answer = Introduction { members: vec![(3, "n3:1".into())], ..durable(2, "n2:1") };
        assert_eq!(members.answered(1, "n2:1", &answer), Verdict::Member);
        members.heard(&durable(4, "n4:1")).expect("it may stay");
        members.heard(&says(5, "n5:1")).expect("it may stay");
        let stored = members.stored();
        let known: Vec<_> =
            stored.members.iter().map(|of| (of.id, of.is_durable, of.known_by)).collect();
        assert_eq!(
            known,
            [
                (2, true, KnownBy::Link),
                (3, false, KnownBy::Member),
                (4, true, KnownBy::ItsWord),
                (5, false, KnownBy::ItsWord)
            ]
        );
        let again = Members::new(identity(1), &[], Dials::Everybody, &stored, 10);
        assert_eq!((again.stored(), again.is_alone()), (stored, false));
        assert_eq!(again.holders().into_values().collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!(
            again.members(),
            [(2, "n2:1".into()), (3, "n3:1".into())],
            "strangers do not spread"
        );
    }

    #[test]
    fn stored_data_that_was_only_heard_of_is_not_forgotten_when_another_node_answers_there() {
        let mut members = members(&[]);
        members.heard(&durable(4, "n4:1")).expect("it may stay");
        assert!(matches!(members.answered(1, "n4:1", &says(5, "n4:1")), Verdict::Refused(_)));
        assert_eq!(members.holders().into_values().collect::<Vec<_>>(), [4, 5]);
        // One in memory was restarted.
        members.heard(&says(6, "n6:1")).expect("it may stay");
        assert_eq!(members.answered(3, "n6:1", &says(7, "n6:1")), Verdict::Member);
        assert_eq!(members.holders().into_values().collect::<Vec<_>>(), [4, 5, 7]);
    }

    #[test]
    fn without_a_password_only_this_machine_and_seeds_are_dialled() {
        let seeds = ["seed.example:1".to_string()];
        let mut members =
            Members::new(identity(1), &seeds, Dials::ThisMachineAndSeeds, &Stored::default(), 10);
        for address in ["localhost:1", "127.0.0.9:1", "[::1]:1", "seed.example:1"] {
            assert!(members.may_dial(address), "{address}");
        }
        for address in ["other.example:1", "192.0.2.1:1", "seed.example:2", "127.0.0.1.example:1"] {
            assert!(!members.may_dial(address), "{address}");
            let refused = members.heard(&says(9, address)).expect_err("refused").to_string();
            assert!(refused.contains(address) && refused.contains("--insecure"), "{refused}");
        }
        // What a seed says of itself and of others leads nowhere else either.
        let answer =
            Introduction { members: vec![(3, "192.0.2.1:1".into())], ..says(2, "192.0.2.2:1") };
        assert_eq!(members.answered(1, "seed.example:1", &answer), Verdict::Member);
        assert_eq!(members.members(), [(2, "seed.example:1".into())]);
    }

    #[test]
    fn one_id_in_two_runs_at_a_time_is_refused_until_one_has_gone() {
        let mut members = members(&[]);
        let (original, copy) =
            (durable(2, "n2:1"), Introduction { run_id: 7, ..durable(2, "n3:1") });
        let mut say = |from| members.heard(from).map_err(|error| error.to_string());
        (0..2).for_each(|_| {
            [&original, &copy].into_iter().for_each(|from| say(from).expect("like a restart"))
        });
        let refused = (0..4)
            .find_map(|_| say(&original).and_then(|()| say(&copy)).err())
            .expect("two are alive");
        assert!(
            refused.contains("copied data directory") && refused.contains("empty directory"),
            "{refused}"
        );
        assert!(matches!(
            members.answered(1, "n2:1", &original),
            Verdict::Refused(why) if why == refused
        ));
        (0..40).for_each(|_| drop(members.heard(&copy)));
        members.heard(&copy).expect("the other one has gone");
    }

    #[test]
    fn more_bans_than_there_may_be_are_refused_and_none_is_lost() {
        let mut members = members(&["n2:1"]);
        let answer = |bans: std::ops::Range<usize>| Introduction {
            bans: bans.map(|id| id as u64).collect(),
            ..says(2, "n2:1")
        };
        assert_eq!(members.answered(1, "n2:1", &answer(100..100 + BANS_MAX)), Verdict::Member);
        for bans in [50..60, 50..100 + BANS_MAX] {
            assert!(matches!(
                members.answered(1, "n2:1", &answer(bans)),
                Verdict::Refused(why) if why.contains("10000")
            ));
        }
        assert!(members.forget(&format!("{:016x}", 60)).is_err());
        assert_eq!((members.bans().len(), members.contacts().len()), (BANS_MAX, 1));
        assert!(members.forget(&format!("{:016x}", 100)).is_ok(), "it is banned already");
    }

    #[test]
    fn a_node_that_comes_back_elsewhere_is_tried_there_first() {
        let mut members = members(&["n2:1"]);
        members.answered(1, "n2:1", &durable(2, "n2:1"));
        members.heard(&durable(2, "elsewhere:1")).expect("a member");
        assert_eq!(members.contacts()[&1].addresses, ["elsewhere:1", "n2:1"]);
    }

    #[test]
    fn a_banned_node_never_comes_back() {
        let mut first = members(&["n2:1"]);
        first.answered(1, "n2:1", &durable(2, "n2:1"));
        assert_eq!(first.forget("n2:1").expect("a member"), [1]);
        let refused = first.heard(&durable(2, "n2:1")).expect_err("banned");
        assert_eq!(refused.to_string(), "forgotten: start with an empty directory");
        // Bans travel with every answer.
        let mut second = Members::new(
            identity(3),
            &["n1:1".into(), "n2:1".into()],
            Dials::Everybody,
            &Stored::default(),
            10,
        );
        second.answered(2, "n2:1", &durable(2, "n2:1"));
        let mut answer = says(1, "n1:1");
        answer.bans = first.bans();
        assert_eq!(second.answered(1, "n1:1", &answer), Verdict::Member);
        assert_eq!(second.contacts().len(), 1);
        assert!(second.heard(&durable(2, "n2:1")).is_err());
    }

    #[test]
    fn what_cannot_be_together_is_refused_with_a_reason() {
        let mut members = members(&[]);
        let other_cluster = Introduction { cluster: "d".into(), ..says(2, "n2:1") };
        let copied = Introduction { run_id: 7, ..says(1, "n2:1") };
        for (from, reason) in [(other_cluster, "--cluster"), (copied, "copied data directory")] {
            let refused = members.heard(&from).expect_err("refused").to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        (2..12)
            .for_each(|id| members.heard(&says(id, &format!("n{id}:1"))).expect("there is room"));
        assert!(members.heard(&says(12, "n12:1")).is_err(), "no more than the limit");
    }

    proptest! {
        #[test]
        fn one_contact_for_each_node_id(
            steps in prop::collection::vec((0u8..4, 1u64..5, 1u64..5, any::<bool>()), 0..60),
        ) {
            let mut members = members(&["n2:1", "n3:1"]);
            for (step, id, place, is_durable) in steps {
                let address = format!("n{place}:1");
                let mut from = Introduction { is_durable, ..says(id, &address) };
                match step {
                    0 => drop(members.heard(&from)),
                    1 => drop(members.forget(&format!("{id:016x}"))),
                    _ => {
                        from.members = vec![(place, format!("n{id}:1"))];
                        let numbers: Vec<u64> = members.contacts().keys().copied().collect();
                        if let Some(number) = numbers.get(place as usize % numbers.len().max(1)) {
                            members.answered(*number, &address, &from);
                        }
                    }
                }
                let ids: Vec<u64> = members.contacts().values()
                    .filter_map(|contact| contact.id()).collect();
                let distinct: BTreeSet<u64> = ids.iter().copied().collect();
                prop_assert_eq!(ids.len(), distinct.len(), "{:?}", members.contacts());
                prop_assert!(distinct.iter().all(|id| !members.bans().contains(id)));
            }
        }
    }
}
