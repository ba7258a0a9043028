// SPDX-License-Identifier: Apache-2.0
// usage: client CHANNEL COUNT    writes the numbers below COUNT, a line each
#include <relay.h>

#include <cstring>
#include <memory>
#include <string>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  std::unique_ptr<relay_chan, decltype(&relay_detach)> chan(
      relay_attach(nullptr, argv[1]), relay_detach);
  if (!chan) return 1;
  for (int i = 0; i < std::stoi(argv[2]); i++) {
    const std::string line = std::to_string(i) + "\n";
    relay_reservation reservation;
    void *space = relay_reserve(chan.get(), line.size(), &reservation);
    if (space == nullptr) return 1;
    std::memcpy(space, line.data(), line.size());
    relay_commit(&reservation);
  }
  return 0;
}
