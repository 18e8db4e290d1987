#include "cli/partial_volume.h"

#include <chrono>
#include <string_view>
#include <thread>

#include "base/limits.h"
#include "base/text.h"

namespace fdbnbd::cli {

namespace {

constexpr std::string_view kSuffix = ".importing";
constexpr auto kSessionEndPatience = std::chrono::seconds(10);
constexpr auto kRetryDelay = std::chrono::milliseconds(20);

}  // namespace

std::string partial_name_of(const std::string& volume) {
  return std::string(utf8_prefix(volume, limits::kMaxVolumeNameBytes - kSuffix.size())) +
         std::string(kSuffix);
}

Result<void> ask_when_free(const Context& context, StoreAccess& access, const control::Request& request) {
  const auto deadline = std::chrono::steady_clock::now() + kSessionEndPatience;
  while (true) {
    auto done = context.ask(access, request);
    if (done) return {};
    if (done.error().code != Errc::busy || std::chrono::steady_clock::now() >= deadline)
      return propagate(done);
    std::this_thread::sleep_for(kRetryDelay);
  }
}

}  // namespace fdbnbd::cli
