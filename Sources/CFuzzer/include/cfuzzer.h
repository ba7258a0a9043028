// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry, which its own headers declare for C++ only.
#ifndef CFUZZER_H
#define CFUZZER_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerRunDriver(
    int *argc, char ***argv, int (*one_input)(const uint8_t *bytes, size_t count));

#endif
