//! Version, security, initialisation (RFC 6143, 7.1 to 7.3).

use super::encode::PixelFormat;
use super::{invalid, take};
use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use std::io::{Result, Write};
use std::net::TcpStream;
use std::time::Duration;

const NONE: u8 = 1;
const VNC_AUTH: u8 = 2;
/// How long a client may take for it all.
const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &[u8] = b"emu";

/// Agrees on a version and checks the password. With `refusal` the client is only told why it cannot be served.
pub fn agree(mut s: &TcpStream, password: Option<&str>, refusal: Option<&str>) -> Result<()> {
    s.set_read_timeout(Some(PATIENCE))?;
    s.write_all(b"RFB 003.008\n")?;
    let minor = match &take::<12>(&mut s)? {
        b"RFB 003.008\n" => 8,
        b"RFB 003.007\n" => 7,
        v if v.starts_with(b"RFB 003.") => 3,
        _ => return Err(invalid("not RFB 3")),
    };
    if let Some(why) = refusal {
        // No security type: a reason follows.
        s.write_all(if minor == 3 { &[0; 4] } else { &[0] })?;
        reason(s, why)?;
        return Err(invalid("refused"));
    }
    let kind = if password.is_some() { VNC_AUTH } else { NONE };
    if minor == 3 {
        s.write_all(&u32::from(kind).to_be_bytes())?;
    } else {
        s.write_all(&[1, kind])?;
        if take::<1>(&mut s)?[0] != kind {
            return Err(invalid("another security type"));
        }
    }
    let passed = match password {
        Some(password) => {
            let mut challenge = [0; 16];
            getrandom::fill(&mut challenge).map_err(std::io::Error::other)?;
            s.write_all(&challenge)?;
            let answer = take::<16>(&mut s)?;
            let wanted = response(password, challenge);
            // All of it is compared, right or wrong.
            answer.iter().zip(wanted).fold(0, |d, (a, b)| d | (a ^ b)) == 0
        }
        None => true,
    };
    if password.is_some() || minor == 8 {
        s.write_all(&u32::from(!passed).to_be_bytes())?;
    }
    if !passed {
        if minor == 8 {
            reason(s, "the password is wrong")?;
        }
        return Err(invalid("wrong password"));
    }
    Ok(())
}

fn reason(mut s: &TcpStream, why: &str) -> Result<()> {
    s.write_all(&(why.len() as u32).to_be_bytes())?;
    s.write_all(why.as_bytes())
}

/// What a client that knows the password answers: DES with each byte of the key mirrored.
fn response(password: &str, challenge: [u8; 16]) -> [u8; 16] {
    let mut key = [0u8; 8];
    for (k, b) in key.iter_mut().zip(password.bytes()) {
        *k = b.reverse_bits();
    }
    let des = Des::new(&key.into());
    let mut answer = challenge;
    for half in answer.chunks_exact_mut(8) {
        let mut block = [0u8; 8];
        block.copy_from_slice(half);
        let mut block = block.into();
        des.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    answer
}

/// Tells size, pixel format and name.
pub fn initialise(mut s: &TcpStream, (width, height): (usize, usize)) -> Result<()> {
    // Whether other clients are to be sent away: they may stay.
    take::<1>(&mut s)?;
    let mut out = Vec::new();
    out.extend((width as u16).to_be_bytes());
    out.extend((height as u16).to_be_bytes());
    out.extend(PixelFormat::default().bytes());
    out.extend((NAME.len() as u32).to_be_bytes());
    out.extend(NAME);
    s.write_all(&out)?;
    // From here on a client may say nothing for as long as it likes.
    s.set_read_timeout(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_a_des_key() {
        // "password" mirrored is 0e 86 ce ce ee f6 4e 26; DES of zeros with it, from an implementation that is not ours.
        let answer = response("password", [0; 16]);
        assert_eq!(answer[..8], answer[8..]);
        assert_ne!(response("passwore", [0; 16]), answer);
        assert_eq!(
            response("", [0; 16])[..8],
            [0x8c, 0xa6, 0x4d, 0xe9, 0xc1, 0xb1, 0x23, 0xa7]
        );
    }
}
