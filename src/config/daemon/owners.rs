//! Whose own keys pay: from the names in `[owner.NAME]` to users of this machine.
//!
//! Asks the machine's user database (getpwnam(3)), which may be on the network. Reads no key.

use std::collections::BTreeMap;
use std::path::Path;

use nix::unistd::User;

use super::{Owner, OwnerLayer};
use crate::exit::Stop;
use crate::line::escape::{for_people, shown};

/// The owners, no two of them the same user. A name of digits alone that is no user's is a user id, as systemd has it.
pub(super) fn resolve(owners: BTreeMap<String, OwnerLayer>) -> Result<Vec<Owner>, Stop> {
    let mut resolved: Vec<Owner> = Vec::with_capacity(owners.len());
    for (name, OwnerLayer { api_key_file, origin }) in owners {
        let id = user_id(&name, &origin)?;
        if let Some(other) = resolved.iter().find(|other| other.id == id) {
            let [name, other] = [&name, &other.name].map(|name| for_people(name, NAME_CHARS_MAX));
            return Err(Stop::config(format!(
                "{}: [owner.{name}] and [owner.{other}] are the same user, {id}",
                shown(&origin)
            ))
            .way_out("keep one of the two"));
        }
        // A table without the file does not parse.
        let Some(api_key_file) = api_key_file else { continue };
        resolved.push(Owner { name, id, api_key_file });
    }
    Ok(resolved)
}

const NAME_CHARS_MAX: usize = 64;

fn user_id(name: &str, origin: &Path) -> Result<u32, Stop> {
    let told = || format!("{}: [owner.{}]", shown(origin), for_people(name, NAME_CHARS_MAX));
    let is_id = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) if is_id => name.parse().map_err(|_| Stop::config(format!("{}: no such user id", told()))),
        Ok(None) => Err(Stop::config(format!("{}: there is no such user on this machine", told()))
            .way_out(format!("correct the name (`getent passwd` lists users), or take [owner.{name}] out"))),
        Err(error) => Err(Stop::config(format!("{}: look up the user: {error}", told()))
            .way_out("see whether `getent passwd` works on this machine, and start again")),
    }
    .map_err(|stop| match stop.way_out {
        Some(_) => stop,
        None => stop.way_out("write the user's name, or an id below 4294967296"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn owners(names: &[&str]) -> Result<Vec<Owner>, Stop> {
        let layer = |name: &&str| {
            let api_key_file = Some(format!("/keys/{name}").into());
            ((*name).to_owned(), OwnerLayer { api_key_file, origin: "/etc/c.toml".into() })
        };
        resolve(names.iter().map(layer).collect())
    }

    #[test]
    fn names_and_ids_become_users() {
        let found = owners(&["root", "4000000001"]).unwrap();
        let ids: Vec<_> = found.iter().map(|owner| (owner.name.as_str(), owner.id)).collect();
        assert_eq!(ids, [("4000000001", 4_000_000_001), ("root", 0)]);
        assert_eq!(found[1].api_key_file, Path::new("/keys/root"));
    }

    #[test]
    fn who_is_nobody_or_there_twice_is_refused_with_file_and_key() {
        for (names, told) in [
            (&["no-such-user-here"][..], "/etc/c.toml: [owner.no-such-user-here]: there is no such user"),
            (&["99999999999"], "no such user id"),
            (&["0", "root"], "are the same user, 0"),
            (&["a\u{1b}[2J"], "[owner.a\\u{1b}[2J]"),
        ] {
            let stop = owners(names).unwrap_err();
            assert!(stop.exit == Exit::Config && stop.way_out.is_some(), "{stop}");
            assert!(stop.message.contains(told), "{stop}");
        }
    }
}
