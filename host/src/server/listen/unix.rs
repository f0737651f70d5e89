//! Listeners at a path of the file system.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a listener. It is removed with this, unless another server has put its own there.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// Listens at a path with these permissions. A socket that a dead server has left there is removed.
///
/// # Errors
///
/// If a server listens there, or something else is there, or the system refuses.
pub(super) fn listen(path: &Path, mode: u32, backlog: u32) -> io::Result<(OwnedFd, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    // Nobody can connect before it listens.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is something else than a socket",
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It is full, or ours to try another time.
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("clients.sock")
    }

    #[test]
    fn a_socket_is_removed_with_its_listener_and_one_that_a_dead_server_left_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = path(&folder);
        let (socket, file) = listen(&path, 0o600, 8).expect("free");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("it listens");
        // As if the process had been killed.
        drop(socket);
        std::mem::forget(file);
        let (_socket, file) = listen(&path, 0o660, 8).expect("the old one is gone");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o660);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_belongs_to_another_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = path(&folder);
        let (_socket, file) = listen(&path, 0o600, 8).expect("free");
        let taken = listen(&path, 0o600, 8).expect_err("a server listens there");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "mine").expect("written");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("there"), "mine");
        let other = listen(&path, 0o600, 8).expect_err("it is no socket");
        assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
    }
}
