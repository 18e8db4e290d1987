#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/assert.h"
#include "base/log.h"
#include "session/sim_server_testing.h"

// A client's side of the transmission phase, against a fake Export on a simulated loop. The input: one byte
// of settings, one that seeds the schedule, then records of 7 bytes, each a request, its payload where it has
// one, or garbage. What must hold: every reply has the form of an answer to a request that was sent, and
// after the client has gone nothing is in flight and no memory is held.

namespace fdbnbd::session {
namespace {

constexpr size_t kRecordBytes = 7;
constexpr size_t kMaxRecords = 64;  // so that one input stays cheap
constexpr uint64_t kDiskBytes = 256 * 1024;

uint64_t pick_offset(uint8_t how, uint8_t fine) {
  switch (how & 7) {
    case 0:
      return kDiskBytes - fine;
    case 1:
      return UINT64_MAX - fine;
    case 2:
      return kDiskBytes + fine;
    default:
      return (uint64_t{how} * 1021 + fine) % kDiskBytes;
  }
}

uint32_t pick_length(uint8_t how, uint8_t fine) {
  switch (how & 7) {
    case 0:
      return fine;
    case 1:
      return UINT32_MAX - fine;
    case 2:
      return 32u * 1024 * 1024 + fine;
    default:
      return (uint32_t{how} << 9) + fine;
  }
}

// The bytes of a record. A payload that nobody could want to send is left out: the connection ends there.
std::string encode(TestClient& client, std::span<const uint8_t> record) {
  const uint8_t command = record[0] % 12;
  if (record[0] == 0xff) return std::string(1 + record[1] % 40, static_cast<char>(record[2]));
  proto::Request request =
      plain_request(static_cast<proto::Command>(command), pick_offset(record[1], record[2]),
                    pick_length(record[3], record[4]), record[5] & 0x3f);
  if (request.command == proto::Command::flush && record[6] < 200)
    request.offset_bytes = request.length_bytes = 0;
  const bool writes = request.command == proto::Command::write && request.length_bytes <= 2 * kDiskBytes;
  return client.encode(request, filled(writes ? request.length_bytes : 0, record[6]));
}

Task<void> receive_everything(TestClient& client) {
  while (co_await client.receive()) continue;
}

Task<void> run_script(SimServer& world, std::span<const uint8_t> script, bool structured) {
  TestClient client(world.dial());
  const bool connected = co_await client.connect({.structured = structured});
  ASSERT(connected);
  TaskScope reader;
  reader.spawn(receive_everything(client));
  for (size_t count = 0; count < kMaxRecords && script.size() >= kRecordBytes; ++count) {
    const std::string bytes = encode(client, script.first(kRecordBytes));
    script = script.subspan(kRecordBytes);
    if (!(co_await client.stream().write_all(as_bytes(bytes))).has_value()) break;
  }
  client.stream().shutdown_write();
  co_await reader.join();
  client.stream().close();
}

}  // namespace
}  // namespace fdbnbd::session

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace fdbnbd;
  using namespace fdbnbd::session;
  if (bytes < 2) return 0;
  // A reply of a wrong form is a finding.
  testing::GTEST_FLAG(throw_on_failure) = true;
  log::set_level(log::Level::error);
  const uint8_t settings = data[0];
  SessionLimits limits;
  if ((settings & 1) != 0) {
    limits.requests_per_connection = 3;
    limits.connection_bytes = 64 * 1024;
    limits.process_bytes = 128 * 1024;
    limits.reserved_for_small_bytes = 16 * 1024;
    limits.small_request_bytes = 4096;
  }
  if ((settings & 2) != 0) limits.receive_buffer_bytes = 64;
  SimServer world({.seed = data[1],
                   .limits = limits,
                   .fake = {.size_bytes = kDiskBytes, .read_only = (settings & 4) != 0},
                   .pipe_bytes = (settings & 8) != 0 ? 100u : 64u * 1024,
                   .random_pipes = (settings & 16) != 0,
                   .random_delays = (settings & 32) != 0});
  world.run(run_script(world, {data + 2, bytes - 2}, (settings & 64) != 0));
  world.stop();
  ASSERT(world.server.stats().connections == 0 && world.server.stats().bytes_in_flight == 0);
  ASSERT(world.server.stats().requests_in_flight == 0 && world.exported->running_count() == 0);
  return 0;
}
