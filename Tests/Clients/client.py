#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: client.py CHANNEL COUNT    writes the numbers below COUNT, a line each"""

import ctypes
import os
import sys

relay = ctypes.CDLL("librelay.so.0", use_errno=True)
relay.relay_attach.restype = ctypes.c_void_p
relay.relay_attach.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
relay.relay_write.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
relay.relay_detach.argtypes = [ctypes.c_void_p]

chan = relay.relay_attach(None, sys.argv[1].encode())
if not chan:
    sys.exit(os.strerror(ctypes.get_errno()))
for i in range(int(sys.argv[2])):
    record = b"%d\n" % i
    if result := relay.relay_write(chan, record, len(record)):
        sys.exit(os.strerror(-result))
relay.relay_detach(chan)
