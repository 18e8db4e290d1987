#include "kv/fdb/network.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

#include "base/log.h"

namespace fdbnbd::kv::fdb {

namespace {

enum class Kind { flag, number, text };

struct KnownOption {
  std::string_view name;
  int code;
  Kind kind;
};

constexpr KnownOption kKnownOptions[] = {
    {"trace_enable", 30, Kind::text},
    {"trace_roll_size", 31, Kind::number},
    {"trace_max_logs_size", 32, Kind::number},
    {"trace_log_group", 33, Kind::text},
    {"trace_format", 34, Kind::text},
    {"trace_clock_source", 35, Kind::text},
    {"trace_file_identifier", 36, Kind::text},
    {"trace_share_among_client_threads", 37, Kind::flag},
    {"trace_initialize_on_setup", 38, Kind::flag},
    {"trace_partial_file_suffix", 39, Kind::text},
    {"knob", 40, Kind::text},
    {"tls_cert_path", 43, Kind::text},
    {"tls_key_path", 46, Kind::text},
    {"tls_verify_peers", 47, Kind::text},
    {"tls_ca_path", 53, Kind::text},
    {"tls_password", 54, Kind::text},
    {"disable_multi_version_client_api", 60, Kind::flag},
    {"callbacks_on_external_threads", 61, Kind::flag},
    {"external_client_library", 62, Kind::text},
    {"external_client_directory", 63, Kind::text},
    {"disable_local_client", 64, Kind::flag},
    {"client_threads_per_version", 65, Kind::number},
    {"future_version_client_library", 66, Kind::text},
    {"retain_client_library_copies", 67, Kind::flag},
    {"ignore_external_client_failures", 68, Kind::flag},
    {"fail_incompatible_client", 69, Kind::flag},
    {"disable_client_statistics_logging", 70, Kind::flag},
    {"enable_run_loop_profiling", 71, Kind::flag},
    {"disable_client_bypass", 72, Kind::flag},
    {"client_buggify_enable", 80, Kind::flag},
    {"client_buggify_disable", 81, Kind::flag},
    {"client_buggify_section_activated_probability", 82, Kind::number},
    {"client_buggify_section_fired_probability", 83, Kind::number},
    {"distributed_client_tracer", 90, Kind::text},
    {"client_tmp_dir", 91, Kind::text},
};

// The running network.
class Network {
 public:
  Network(Api api, std::vector<NetworkOption> options) : api_(std::move(api)), options_(std::move(options)) {}
  ~Network() { stop(); }

  Result<void> start() {
    RETURN_IF_ERROR(
        check(api_.select_api_version_impl(api_.version, api_.version), "select the API version"));
    for (const NetworkOption& option : options_) {
      ASSIGN_OR_RETURN(const EncodedOption encoded, encode_network_option(option));
      const int error =
          api_.network_set_option(encoded.code, reinterpret_cast<const uint8_t*>(encoded.bytes.data()),
                                  static_cast<int>(encoded.bytes.size()));
      if (error != 0) {
        // Without the value, which may be a password.
        return fail(Errc::invalid,
                    fmt::format("FoundationDB does not take the value of network option {}: {}", option.first,
                                api_.get_error(error)));
      }
    }
    RETURN_IF_ERROR(check(api_.setup_network(), "set up the network"));
    thread_ = std::thread([this] {
      if (const int error = api_.run_network(); error != 0)
        log::error("FoundationDB's network thread ended: {}", api_.get_error(error));
    });
    if (api_.get_client_version != nullptr)
      log::debug("{}: {}, API version {}", api_.library, api_.get_client_version(), api_.version);
    return {};
  }

  void stop() {
    if (!thread_.joinable()) return;
    api_.stop_network();
    thread_.join();
  }

  const Api& api() const { return api_; }
  const std::vector<NetworkOption>& options() const { return options_; }

 private:
  Result<void> check(int error, std::string_view doing) const {
    if (error == 0) return {};
    return fail(Errc::unavailable,
                fmt::format("{}: cannot {}: {}", api_.library, doing, api_.get_error(error)));
  }

  const Api api_;
  const std::vector<NetworkOption> options_;
  std::thread thread_;
};

std::mutex network_mutex;

// Guarded by network_mutex. What the process asked for first, and how it went; the library allows no second
// try.
struct Process {
  std::string library_path;
  std::unique_ptr<Network> network;
  Error failure{Errc::unavailable, "FoundationDB's network has been stopped"};
};

Process& process() {
  static Process the_process;
  return the_process;
}

bool process_started = false;  // guarded by network_mutex: process() may be used

}  // namespace

NetworkOption parse_network_option(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return {std::string(text), {}};
  return {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
}

Result<EncodedOption> encode_network_option(const NetworkOption& option) {
  const auto& [name, value] = option;
  const auto* const known = std::ranges::find(kKnownOptions, name, &KnownOption::name);
  if (known == std::end(kKnownOptions))
    return fail(Errc::invalid, fmt::format("FoundationDB has no network option {}", name));
  EncodedOption encoded{known->code, {}};
  switch (known->kind) {
    case Kind::flag:
      if (!value.empty()) return fail(Errc::invalid, fmt::format("network option {}: takes no value", name));
      break;
    case Kind::text:
      if (value.empty())
        return fail(Errc::invalid, fmt::format("network option {}: a value is missing", name));
      encoded.bytes = value;
      break;
    case Kind::number: {
      int64_t number = 0;
      const char* const end = value.data() + value.size();
      const auto parsed = std::from_chars(value.data(), end, number);
      if (parsed.ec != std::errc() || parsed.ptr != end)
        return fail(Errc::invalid,
                    fmt::format("network option {}: \"{}\" is not a whole number", name, value));
      encoded.bytes.resize(sizeof number);
      std::memcpy(encoded.bytes.data(), &number, sizeof number);
      break;
    }
  }
  return encoded;
}

Result<const Api*> start_network(std::string_view library_path, const std::vector<NetworkOption>& options) {
  const std::lock_guard lock(network_mutex);
  if (!process_started) {
    for (const NetworkOption& option : options) RETURN_IF_ERROR(encode_network_option(option));
    ASSIGN_OR_RETURN(Api api, load_api(library_candidates(library_path)));
    Process& started = process();
    process_started = true;
    started.library_path = library_path;
    started.network = std::make_unique<Network>(std::move(api), options);
    if (auto result = started.network->start(); !result) {
      started.failure = result.error();
      started.network.reset();
    }
  }
  Process& running = process();
  if (!running.network) return tl::unexpected(running.failure);
  if (running.library_path != library_path || running.network->options() != options) {
    return fail(Errc::invalid,
                "FoundationDB's library and network options are the same for the whole process");
  }
  return &running.network->api();
}

void stop_network() {
  const std::lock_guard lock(network_mutex);
  if (process_started) process().network.reset();
}

}  // namespace fdbnbd::kv::fdb
