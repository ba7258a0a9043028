// SPDX-License-Identifier: Apache-2.0
#include "relay_abi.h"
