#include <string>
#include <string_view>

#include "base/assert.h"
#include "base/endian.h"
#include "base/limits.h"
#include "base/random.h"
#include "base/text.h"
#include "proto/client_testing.h"
#include "session/negotiator_testing.h"

// A client's side of a handshake, cut into segments in several ways. The input: one byte of settings (TLS
// policy, which registry, raw or script), one that seeds the segmentation, then either the raw bytes of the
// client or a script that says which options to build, so that valid ones are reached without guessing
// magics.

namespace fdbnbd::session {
namespace {

constexpr uint8_t kIsScript = 0x80;
constexpr int kMaxScriptOptions = 24;  // so that one input stays cheap

ScriptedRegistry registry_of(uint8_t settings) {
  ScriptedRegistry registry;
  block::ExportInfo info{.name = "disk", .description = "a disk", .size_bytes = uint64_t{1} << 40};
  registry.exports.push_back(info);
  if ((settings & 4) == 0) return registry;
  info.name = "other";
  info.read_only = true;
  registry.exports.push_back(info);
  registry.failures = {{"held", {Errc::busy, "held by \x1b somebody"}},
                       {"late", {Errc::cancelled, "stopping"}}};
  if ((settings & 8) != 0) registry.failures[""] = {Errc::io, "no list"};
  if ((settings & 16) != 0) {
    info.description.assign(6000, 'd');
    for (int index = 0; index < 20; ++index) {
      info.name = "volume" + std::to_string(index);
      registry.exports.push_back(info);
    }
  }
  return registry;
}

// Two bytes for each option: its number, and how to make its payload; a third and as many as it says where
// the payload is to be taken from the script.
std::string build_script(std::string_view script) {
  const auto take = [&]() -> uint8_t {
    if (script.empty()) return 0;
    const auto byte = static_cast<uint8_t>(script.front());
    script.remove_prefix(1);
    return byte;
  };
  constexpr std::string_view kNames[] = {"disk", "other", "held", "late", "", "nope", "a\n\x7f", "\xc3("};
  std::string bytes = proto::client::flags(take() & 3);
  for (int count = 0; count < kMaxScriptOptions && !script.empty(); ++count) {
    const uint8_t number = take();
    const uint8_t how = take();
    const std::string name(kNames[how >> 5]);
    std::string payload;
    switch (how & 3) {
      case 0:
        break;
      case 1:
        payload = proto::client::info_payload(name, {3, 1, static_cast<uint16_t>(how & 4)});
        break;
      case 2:
        payload = proto::client::meta_payload(name, {"base:allocation", (how & 4) != 0 ? "base:" : "x:y"});
        break;
      default: {
        const size_t payload_bytes = take();
        payload = script.substr(0, payload_bytes);
        script.remove_prefix(payload.size());
      }
    }
    if ((how & 24) == 24 && !payload.empty()) payload[number % payload.size()] ^= 1;
    bytes += proto::client::option(uint32_t{number} & 15, payload);
  }
  return bytes;
}

// Every option that was consumed whole has one final reply that names it, but for the last one: EXPORT_NAME,
// or the one that closed the connection.
void check_replies(std::string_view input, const Transcript& transcript) {
  std::string_view output = std::string_view(transcript.output).substr(proto::kGreetingBytes);
  input = input.substr(0, transcript.consumed_bytes);
  if (input.size() < 4) return;
  input.remove_prefix(4);
  while (input.size() >= 16 && load_be<uint64_t>(input.data()) == proto::kIHaveOpt) {
    const auto number = load_be<uint32_t>(input.data() + 8);
    const auto payload_bytes = load_be<uint32_t>(input.data() + 12);
    const bool is_whole = input.size() - 16 >= payload_bytes;
    input.remove_prefix(std::min<size_t>(input.size(), size_t{16} + payload_bytes));
    if (!is_whole) break;
    if (number == static_cast<uint32_t>(proto::Option::export_name)) break;
    for (;;) {
      const auto reply = proto::client::take_reply(output);
      if (!reply) {
        ASSERT(transcript.step == Negotiator::Step::closed && output.empty());
        break;
      }
      ASSERT(reply->option == number);
      if (reply->is_error()) {
        ASSERT(!reply->payload.empty() && reply->payload.size() < limits::kMaxStringBytes);
        ASSERT(is_valid_utf8(reply->payload));
      }
      if (reply->is_error() || reply->type == proto::OptionReply::ack) break;
    }
  }
  // What is left is the answer to EXPORT_NAME, if anything.
  ASSERT(output.empty() || (transcript.step == Negotiator::Step::transmission &&
                            (output.size() == 10 || output.size() == 134)));
}

void check_agreement(const Transcript& transcript) {
  if (transcript.step == Negotiator::Step::closed) {
    ASSERT(is_valid_utf8(transcript.close_reason.what));
    return;
  }
  if (transcript.step != Negotiator::Step::transmission) return;
  ASSERT(!transcript.queries.empty() &&
         transcript.queries.back() == "open " + transcript.agreement.export_name);
  if (!transcript.agreement.contexts.empty()) ASSERT(transcript.agreement.structured_replies);
}

}  // namespace
}  // namespace fdbnbd::session

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace fdbnbd;
  using namespace fdbnbd::session;
  if (bytes < 2) return 0;
  const uint8_t settings = data[0];
  const auto tls = static_cast<TlsPolicy>((settings & 3) % 3);
  const ScriptedRegistry registry = registry_of(settings);
  const std::string_view rest(reinterpret_cast<const char*>(data) + 2, bytes - 2);
  const std::string input = (settings & kIsScript) != 0 ? build_script(rest) : std::string(rest);

  const Transcript at_once = drive(registry, tls, input, [&] { return input.size(); });
  check_bounds(at_once);
  check_replies(input, at_once);
  check_agreement(at_once);
  Random random(data[1]);
  const size_t largest = 1 + random.below(64);
  const Transcript cut = drive(registry, tls, input, [&] { return 1 + random.below(largest); });
  check_bounds(cut);
  ASSERT(is_same(at_once, cut));
  ASSERT(is_same(at_once, drive(registry, tls, input, [] { return size_t{1}; })));
  return 0;
}
