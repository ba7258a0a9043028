// SPDX-License-Identifier: Apache-2.0
//! usage: client CHANNEL COUNT    writes the numbers below COUNT, a line each

use std::ffi::{c_char, c_int, c_void, CString};

#[link(name = "relay")]
extern "C" {
    fn relay_attach(socket_path: *const c_char, channel: *const c_char) -> *mut c_void;
    fn relay_write(chan: *mut c_void, data: *const c_void, length: usize) -> c_int;
    fn relay_detach(chan: *mut c_void);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let name = CString::new(arguments[1].as_str()).unwrap();
    let chan = unsafe { relay_attach(std::ptr::null(), name.as_ptr()) };
    assert!(!chan.is_null(), "{}", std::io::Error::last_os_error());
    for i in 0..arguments[2].parse().unwrap() {
        let i: u32 = i;
        let record = format!("{i}\n");
        let result = unsafe { relay_write(chan, record.as_ptr().cast(), record.len()) };
        assert_eq!(result, 0);
    }
    unsafe { relay_detach(chan) };
}
