//! Running under strace, and reading what it wrote.
//!
//! strace counts the `when=` of an injection for each thread by itself. All durable work is done by the thread named
//! "journal"; where others make the same calls, injections are bound to the paths that are meant.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::Run;
use crate::plan::has;
use crate::scene::quoted;

/// Every call by which files change or become durable, and those by which requests and output go out.
pub const CHANGES: &str = "openat,close,write,pwrite64,writev,pwritev2,sendto,sendmsg,fdatasync,fsync,sync_file_range,ftruncate,\
     link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,dup,fcntl";

/// Whether strace is there, and sees what a process does that has forbidden others to look into it.
pub fn is_here() -> bool {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    has("strace", FOUND.get_or_init(look_for).clone(), "ANVIL_REQUIRE_STRACE")
}

fn look_for() -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "--seccomp-bpf", "-e", "trace=write", "-o"]).arg(&trace);
    let output = command.args([env!("CARGO_BIN_EXE_anvil-filter"), "--version"]).output();
    let output = output.map_err(|error| format!("start strace: {error}"))?;
    let text = std::fs::read_to_string(&trace).unwrap_or_default();
    if output.status.success() && text.contains("\"anvil-filter ") {
        return Ok(());
    }
    Err(format!("strace cannot see what the program writes (root can): {}", String::from_utf8_lossy(&output.stderr)))
}

/// How a run is traced.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Calls that are written down.
    pub calls: String,
    /// `CALL:error=…:when=…`
    pub inject: Vec<String>,
    /// Only calls about these.
    pub paths: Vec<PathBuf>,
}

impl Options {
    /// Writes every change down.
    pub fn changes() -> Options {
        Options { calls: CHANGES.to_owned(), ..Options::default() }
    }

    /// Writes one call down, and does something to it.
    pub fn inject(call: &str, what: &str, paths: &[PathBuf]) -> Options {
        Options { calls: call.to_owned(), inject: vec![format!("{call}:{what}")], paths: paths.to_vec() }
    }

    /// The run under strace.
    pub fn wrap(&self, run: Run, trace: &Path) -> Run {
        let mut script = format!("exec strace -f -y -s 1000000 -o {} -e trace={}", quoted(trace), self.calls);
        // With its filter strace 6.1 injects nothing but at the first call.
        script += if self.inject.is_empty() { " --seccomp-bpf" } else { "" };
        self.inject.iter().for_each(|inject| script += &format!(" -e inject={inject}"));
        self.paths.iter().for_each(|path| script += &format!(" -P {}", quoted(path)));
        run.shell(&(script + r#" "$0" "$@""#))
    }
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    /// Its arguments as strace shows them.
    pub args: String,
    /// What it returned; nothing when the process ended in it.
    pub result: Option<i64>,
    /// What follows the result: an errno, a path, that it was injected.
    pub note: String,
    /// Where in the trace it was entered, and where it was left.
    pub begin: usize,
    pub end: usize,
}

impl Call {
    /// Whether it was left without an error.
    pub fn is_done(&self) -> bool {
        self.result.is_some_and(|result| result >= 0)
    }

    /// The number of the descriptor that it is about.
    pub fn descriptor(&self) -> Option<u32> {
        self.args.split(['<', ',']).next()?.trim().parse().ok()
    }

    /// The path of that descriptor.
    pub fn path(&self) -> Option<&str> {
        self.descriptor()?;
        path_in(&self.args)
    }

    /// The path of the descriptor that it returned.
    pub fn opened(&self) -> Option<&str> {
        path_in(&self.note)
    }

    /// Every string among its arguments, joined: for a write its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.strings().concat()
    }

    /// The strings among its arguments.
    pub fn strings(&self) -> Vec<Vec<u8>> {
        let (mut strings, mut rest) = (Vec::new(), self.args.as_bytes());
        while let Some(start) = memchr::memchr(b'"', rest) {
            let (string, length) = unescape(&rest[start + 1..]);
            strings.push(string);
            rest = &rest[(start + 1 + length).min(rest.len())..];
        }
        strings
    }

    /// The paths among its arguments, each seen from the folder that stands before it.
    pub fn paths(&self) -> Vec<PathBuf> {
        let (mut paths, mut at) = (Vec::new(), 0);
        while let Some(start) = self.args[at..].find('"') {
            let (before, string) = self.args[at..].split_at(start);
            let folder =
                before.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
            let (name, length) = unescape(&string.as_bytes()[1..]);
            paths.push(Path::new(folder).join(OsStr::from_bytes(&name)));
            at = (at + start + 1 + length).min(self.args.len());
        }
        paths
    }

    /// Whether it is about a path, which is how strace selects calls: an open file's, or an argument.
    pub fn is_about(&self, path: &Path) -> bool {
        // What is written is no path, and long.
        let is_named =
            || !self.name.contains("write") && self.strings().iter().any(|own| own == path.as_os_str().as_bytes());
        self.path().is_some_and(|own| Path::new(own) == path) || is_named()
    }

    /// Whether strace did something to it.
    pub fn is_injected(&self) -> bool {
        self.note.contains("(INJECTED)") || self.note.contains("(DELAYED)")
    }
}

fn path_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path)
}

/// A C string behind its opening quote, and how far it goes with its closing one.
fn unescape(text: &[u8]) -> (Vec<u8>, usize) {
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < text.len() && text[at] != b'"' {
        let escaped = text[at] == b'\\';
        at += usize::from(escaped);
        let byte = *text.get(at).unwrap_or(&0);
        at += 1;
        bytes.push(match byte {
            b'0'..=b'7' if escaped => {
                let mut value = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit) = text.get(at).filter(|digit| (b'0'..=b'7').contains(digit)) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                    at += 1;
                }
                value as u8
            }
            b'n' if escaped => b'\n',
            b't' if escaped => b'\t',
            b'r' if escaped => b'\r',
            b'v' if escaped => 0x0b,
            b'f' if escaped => 0x0c,
            byte => byte,
        });
    }
    (bytes, at + 1)
}

/// Reads what strace wrote down.
pub fn read(trace: &Path) -> Vec<Call> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let (mut calls, mut open): (Vec<Call>, HashMap<u32, Call>) = (Vec::new(), HashMap::new());
    for (at, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(mut call) = open.remove(&thread) else { continue };
            let (_, rest) = resumed.split_once("resumed>").unwrap_or((resumed, ""));
            call.finish(rest, at);
            calls.push(call);
            continue;
        }
        let Some((name, rest)) = rest.split_once('(').filter(|(name, _)| is_name(name)) else { continue };
        let call = |args: &str| Call {
            thread,
            name: name.to_owned(),
            args: args.to_owned(),
            result: None,
            note: String::new(),
            begin: at,
            end: usize::MAX,
        };
        match rest.strip_suffix("<unfinished ...>") {
            Some(args) => drop(open.insert(thread, call(args))),
            None => {
                let mut call = call("");
                call.finish(rest, at);
                calls.push(call);
            }
        }
    }
    calls.extend(open.into_values());
    calls.sort_by_key(|call| (call.end, call.begin));
    calls
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl Call {
    /// Takes the rest of its arguments, and its result.
    fn finish(&mut self, rest: &str, at: usize) {
        // Strings may hold the same characters; the result is what follows the last.
        let (args, result) = rest.rsplit_once(") = ").or_else(|| split_padded(rest)).unwrap_or((rest, "?"));
        self.args.push_str(args);
        let (number, note) = result.split_at(result.find([' ', '<']).unwrap_or(result.len()));
        self.result = number.parse().ok();
        self.note = note.to_owned();
        self.end = if self.result.is_some() { at } else { usize::MAX };
    }
}

/// strace pads short calls before the equals sign.
fn split_padded(rest: &str) -> Option<(&str, &str)> {
    let (args, result) = rest.rsplit_once(" = ")?;
    Some((args.trim_end().strip_suffix(')')?, result))
}

#[test]
fn traces_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    let text = concat!(
        "7 write(3</a/b>, \"x\\n\\\"(\\0\\33\\303\\251\", 7) = 7\n",
        "8 fdatasync(3</a/b> <unfinished ...>\n",
        "7 openat(AT_FDCWD, \"/a/c\", O_RDWR|O_CREAT, 0600) = 4</a/c>\n",
        "8 <... fdatasync resumed>)             = 0 (DELAYED)\n",
        "7 unlinkat(6</a/d>, \"e\", 0)      = 0\n",
        "7 close(4</a/c>)                 = -1 EIO (Input/output error) (INJECTED)\n",
        "7 fsync(5</a>) = ?\n",
        "8 +++ killed by SIGKILL +++\n"
    );
    std::fs::write(&path, text).unwrap();
    let calls = read(&path);
    let names: Vec<(&str, Option<i64>)> = calls.iter().map(|call| (&*call.name, call.result)).collect();
    assert_eq!(
        names,
        [
            ("write", Some(7)),
            ("openat", Some(4)),
            ("fdatasync", Some(0)),
            ("unlinkat", Some(0)),
            ("close", Some(-1)),
            ("fsync", None)
        ]
    );
    assert_eq!(calls[0].bytes(), b"x\n\"(\0\x1b\xc3\xa9");
    assert_eq!((calls[0].path(), calls[0].descriptor(), calls[1].opened()), (Some("/a/b"), Some(3), Some("/a/c")));
    assert_eq!((calls[2].begin, calls[2].end, calls[2].is_injected()), (1, 3, true));
    assert!(calls[4].is_injected() && !calls[4].is_done());
    assert_eq!((calls[1].paths(), calls[3].paths()), (vec!["/a/c".into()], vec!["/a/d/e".into()]));
    assert!(calls[0].is_about(Path::new("/a/b")) && calls[1].is_about(Path::new("/a/c")));
}
