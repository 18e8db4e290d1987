#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "proto/constants.h"
#include "proto/reply.h"
#include "proto/request.h"

namespace fdbnbd::proto {
namespace {

constexpr size_t kRequestsCount = 1024;
constexpr uint64_t kExportBytes = uint64_t{1} << 40;
constexpr uint32_t kIoBytes = 4096;
constexpr TransmissionFacts kFacts = {.size_bytes = kExportBytes,
                                      .max_payload_bytes = 32 << 20,
                                      .read_only = false,
                                      .structured_replies = true,
                                      .has_contexts = true};

std::vector<std::byte> encoded_requests() {
  std::vector<std::byte> stream(kRequestsCount * kRequestBytes);
  for (size_t index = 0; index < kRequestsCount; ++index) {
    const Request request = {.flags = 0,
                             .command = index % 2 == 0 ? Command::read : Command::write,
                             .cookie = index,
                             .offset_bytes = index * kIoBytes,
                             .length_bytes = kIoBytes};
    encode_request(std::span(stream).subspan(index * kRequestBytes).first<kRequestBytes>(), request);
  }
  return stream;
}

// What a session does with each header: decode, check, decide about the payload.
void request_decode_and_validate(benchmark::State& state) {
  const std::vector<std::byte> stream = encoded_requests();
  size_t index = 0;
  for ([[maybe_unused]] auto unused : state) {
    const auto request =
        decode_request(std::span(stream).subspan(index * kRequestBytes).first<kRequestBytes>());
    if (!request) std::abort();
    const NbdError verdict = validate_request(*request, kFacts);
    benchmark::DoNotOptimize(payload_action(*request, verdict));
    index = (index + 1) % kRequestsCount;
  }
}
BENCHMARK(request_decode_and_validate);

void request_encode(benchmark::State& state) {
  std::array<std::byte, kRequestBytes> out;
  Request request = {
      .flags = 0, .command = Command::read, .cookie = 0, .offset_bytes = 0, .length_bytes = kIoBytes};
  for ([[maybe_unused]] auto unused : state) {
    encode_request(out, request);
    benchmark::DoNotOptimize(out);
    ++request.cookie;
  }
}
BENCHMARK(request_encode);

void reply_simple(benchmark::State& state) {
  std::array<std::byte, kSimpleReplyBytes> out;
  uint64_t cookie = 0;
  for ([[maybe_unused]] auto unused : state) {
    encode_simple_reply(out, ++cookie, NbdError::ok);
    benchmark::DoNotOptimize(out);
  }
}
BENCHMARK(reply_simple);

void reply_offset_data_header(benchmark::State& state) {
  std::array<std::byte, kOffsetDataHeaderBytes> out;
  uint64_t cookie = 0;
  for ([[maybe_unused]] auto unused : state) {
    ++cookie;
    encode_offset_data_header(out, cookie, Last::yes, cookie * kIoBytes, kIoBytes);
    benchmark::DoNotOptimize(out);
  }
}
BENCHMARK(reply_offset_data_header);

}  // namespace
}  // namespace fdbnbd::proto
