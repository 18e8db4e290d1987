#include "config/config.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <toml.hpp>

#include "base/limits.h"
#include "base/units.h"
#include "config/store_url.h"

namespace fdbnbd::config {

namespace {

// Reads a value into the configuration; the message says what the key takes.
using Reader = std::function<Result<void>(const toml::value&)>;
using Keys = std::map<std::string, Reader, std::less<>>;

tl::unexpected<Error> wrong_type(std::string_view expected) {
  return fail(Errc::invalid, fmt::format("expected {}", expected));
}

template <typename T>
Reader into(std::optional<T>& target, std::function<Result<T>(const toml::value&)> read) {
  return [&target, read = std::move(read)](const toml::value& value) -> Result<void> {
    ASSIGN_OR_RETURN(target, read(value));
    return {};
  };
}

Result<std::string> read_string(const toml::value& value) {
  if (!value.is_string()) return wrong_type("a string");
  return value.as_string().str;
}

Result<bool> read_bool(const toml::value& value) {
  if (!value.is_boolean()) return wrong_type("true or false");
  return value.as_boolean();
}

std::function<Result<uint32_t>(const toml::value&)> read_count(uint32_t max) {
  return [max](const toml::value& value) -> Result<uint32_t> {
    if (!value.is_integer() || value.as_integer() < 1 || value.as_integer() > max) {
      return wrong_type(fmt::format("a whole number from 1 to {}", max));
    }
    return static_cast<uint32_t>(value.as_integer());
  };
}

// Bytes as a number, or with a unit as a string.
Result<uint64_t> read_bytes(const toml::value& value) {
  if (value.is_integer() && value.as_integer() >= 0) return static_cast<uint64_t>(value.as_integer());
  if (value.is_string()) return parse_size(value.as_string().str);
  return wrong_type("a size: a number of bytes, or a string as \"64M\"");
}

// An array of strings, or one string.
template <typename T>
std::function<Result<std::vector<T>>(const toml::value&)> read_list(Result<T> (*parse)(std::string_view)) {
  return [parse](const toml::value& value) -> Result<std::vector<T>> {
    std::vector<T> list;
    const auto add = [&](const toml::value& element) -> Result<void> {
      ASSIGN_OR_RETURN(const std::string text, read_string(element));
      ASSIGN_OR_RETURN(T parsed, parse(text));
      list.push_back(std::move(parsed));
      return {};
    };
    if (!value.is_array()) {
      RETURN_IF_ERROR(add(value));
      return list;
    }
    for (const toml::value& element : value.as_array()) RETURN_IF_ERROR(add(element));
    return list;
  };
}

Result<std::string> read_store(const toml::value& value) {
  ASSIGN_OR_RETURN(std::string text, read_string(value));
  RETURN_IF_ERROR(parse_store_url(text, "."));
  return text;
}

Result<std::string> read_tls(const toml::value& value) {
  ASSIGN_OR_RETURN(std::string text, read_string(value));
  if (text != "off" && text != "on" && text != "require") return wrong_type("\"off\", \"on\" or \"require\"");
  return text;
}

Result<log::Level> read_log_level(const toml::value& value) {
  ASSIGN_OR_RETURN(const std::string text, read_string(value));
  return parse_log_level(text);
}

Result<std::string> read_text(const toml::value& value) {
  ASSIGN_OR_RETURN(std::string text, read_string(value));
  if (text.empty() || text.find('\0') != std::string::npos) return wrong_type("a string that is not empty");
  return text;
}

Result<uint32_t> read_retention(const toml::value& value) {
  const auto most_s = std::chrono::seconds(limits::kMaxTrashRetention).count();
  if (!value.is_integer() || value.as_integer() < 0 || value.as_integer() > most_s)
    return wrong_type(fmt::format("a number of seconds from 0 to {}", most_s));
  return static_cast<uint32_t>(value.as_integer());
}

constexpr uint32_t kMaxIoThreads = 256;
constexpr uint32_t kMaxCount = 1'000'000;
constexpr uint32_t kMaxTimeout = 86'400;
constexpr uint32_t kMaxClientThreads = 64;

tl::unexpected<Error> error_at(const std::string& file_name, const toml::value& value,
                               std::string_view what) {
  return fail(Errc::invalid, fmt::format("{}:{}: {}", file_name, value.location().line(), what));
}

Result<void> read_table(const toml::table& table, const Keys& keys, const std::string& file_name,
                        std::string_view table_name) {
  for (const auto& entry : table) {
    const std::string& key = entry.first;
    const toml::value& value = entry.second;
    const std::string shown = table_name.empty() ? key : fmt::format("{}.{}", table_name, key);
    const auto reader = keys.find(key);
    if (reader == keys.end()) return error_at(file_name, value, fmt::format("unknown key \"{}\"", shown));
    if (auto done = reader->second(value); !done) {
      // A table's reader has placed the error already.
      if (value.is_table()) return propagate(done);
      return error_at(file_name, value, fmt::format("key \"{}\": {}", shown, done.error().what));
    }
  }
  return {};
}

// [fdb]: most keys are network options of FoundationDB under their own names.
class FdbTable {
 public:
  FdbTable(FdbClient& client, const std::string& file_name) : client_(client), file_name_(file_name) {}

  Result<void> read(const toml::value& value) {
    if (!value.is_table()) return wrong_type("a table [fdb]");
    RETURN_IF_ERROR(read_table(value.as_table(), keys(), file_name_, "fdb"));
    // A table of TOML has no order.
    std::ranges::sort(client_.options);
    return {};
  }

 private:
  Keys keys() {
    Keys keys = {{"library", [this](const toml::value& value) -> Result<void> {
                    ASSIGN_OR_RETURN(client_.library, read_text(value));
                    return {};
                  }}};
    for (const char* name : {"tls_cert_path", "tls_key_path", "tls_ca_path", "tls_password",
                             "tls_verify_peers", "trace_enable", "trace_format", "trace_log_group",
                             "trace_file_identifier", "external_client_directory", "client_tmp_dir"}) {
      keys[name] = option(name, read_text);
    }
    for (const char* name : {"trace_roll_size", "trace_max_logs_size"}) {
      keys[name] = option(name, [](const toml::value& value) -> Result<std::string> {
        ASSIGN_OR_RETURN(const uint64_t bytes, read_bytes(value));
        return std::to_string(bytes);
      });
    }
    keys["client_threads_per_version"] =
        option("client_threads_per_version", [](const toml::value& value) -> Result<std::string> {
          ASSIGN_OR_RETURN(const uint32_t count, read_count(kMaxClientThreads)(value));
          return std::to_string(count);
        });
    keys["external_client_library"] = [this](const toml::value& value) -> Result<void> {
      ASSIGN_OR_RETURN(const auto paths,
                       read_list<std::string>([](std::string_view path) -> Result<std::string> {
                         if (path.empty()) return wrong_type("a path");
                         return std::string(path);
                       })(value));
      for (const std::string& path : paths) client_.options.emplace_back("external_client_library", path);
      return {};
    };
    keys["knobs"] = [this](const toml::value& value) { return read_knobs(value); };
    keys["options"] = [this](const toml::value& value) { return read_options(value); };
    return keys;
  }

  Reader option(std::string name, std::function<Result<std::string>(const toml::value&)> read) {
    return [this, name = std::move(name), read = std::move(read)](const toml::value& value) -> Result<void> {
      ASSIGN_OR_RETURN(std::string text, read(value));
      client_.options.emplace_back(name, std::move(text));
      return {};
    };
  }

  // What the library takes as text: knobs, and options that have no key of their own.
  static Result<std::string> read_scalar(const toml::value& value) {
    if (value.is_string()) return read_text(value);
    if (value.is_integer()) return std::to_string(value.as_integer());
    if (value.is_floating()) return fmt::format("{}", value.as_floating());
    if (value.is_boolean()) return std::string(value.as_boolean() ? "true" : "false");
    return wrong_type("a string, a number, true or false");
  }

  Result<void> read_knobs(const toml::value& value) {
    if (!value.is_table()) return wrong_type("a table of knobs, as { NAME = VALUE }");
    for (const auto& [name, knob] : value.as_table()) {
      auto text = read_scalar(knob);
      if (!text)
        return error_at(file_name_, knob, fmt::format("key \"fdb.knobs.{}\": {}", name, text.error().what));
      client_.options.emplace_back("knob", fmt::format("{}={}", name, *text));
    }
    return {};
  }

  Result<void> read_options(const toml::value& value) {
    if (!value.is_table()) return wrong_type("a table of network options, as { NAME = VALUE }");
    const Keys own_keys = keys();
    for (const auto& entry : value.as_table()) {
      const std::string& name = entry.first;
      const toml::value& option = entry.second;
      const auto wrong = [&](std::string_view what) {
        return error_at(file_name_, option, fmt::format("key \"fdb.options.{}\": {}", name, what));
      };
      if (name == "knob") return wrong("use fdb.knobs");
      if (own_keys.contains(name)) return wrong(fmt::format("use fdb.{}", name));
      // An option without a value is a switch: true turns it on, false leaves it alone.
      if (option.is_boolean()) {
        if (option.as_boolean()) client_.options.emplace_back(name, "");
        continue;
      }
      auto text = read_scalar(option);
      if (!text) return wrong(text.error().what);
      client_.options.emplace_back(name, std::move(*text));
    }
    return {};
  }

  FdbClient& client_;
  const std::string& file_name_;
};

// toml11 reports over several lines, with a picture of the source; the first line and the place are enough.
std::string one_line(std::string_view what) {
  std::string_view first = what.substr(0, what.find('\n'));
  if (first.starts_with("[error] ")) first.remove_prefix(std::strlen("[error] "));
  if (first.starts_with("toml::")) {
    const auto colon = first.find(": ");
    if (colon != std::string_view::npos) first.remove_prefix(colon + 2);
  }
  return std::string(first);
}

}  // namespace

Result<log::Level> parse_log_level(std::string_view name) {
  if (name == "debug") return log::Level::debug;
  if (name == "info") return log::Level::info;
  if (name == "warning") return log::Level::warning;
  if (name == "error") return log::Level::error;
  return fail(Errc::invalid,
              fmt::format("\"{}\" is not a log level: use debug, info, warning or error", name));
}

Result<Config> parse_config(std::string_view text, const std::string& file_name) {
  Config config;
  const auto sub_table = [&](std::string_view name, Keys keys) -> Reader {
    return [&file_name, name, keys = std::move(keys)](const toml::value& value) -> Result<void> {
      if (!value.is_table()) return wrong_type(fmt::format("a table [{}]", name));
      return read_table(value.as_table(), keys, file_name, name);
    };
  };
  const Keys keys = {
      {"store", into<std::string>(config.store, read_store)},
      {"listen", into<std::vector<net::Endpoint>>(config.listen, read_list(net::parse_endpoint))},
      {"volumes", into<std::vector<VolumeSpec>>(config.volumes, read_list(parse_volume_spec))},
      {"control", into<std::string>(config.control, read_string)},
      {"insecure", into<bool>(config.insecure, read_bool)},
      {"tls", into<std::string>(config.tls, read_tls)},
      {"read_only", into<bool>(config.read_only, read_bool)},
      {"io_threads", into<uint32_t>(config.io_threads, read_count(kMaxIoThreads))},
      {"log_level", into<log::Level>(config.log_level, read_log_level)},
      {"limits",
       sub_table(
           "limits",
           {{"connections", into<uint32_t>(config.connections, read_count(kMaxCount))},
            {"requests_per_connection",
             into<uint32_t>(config.requests_per_connection, read_count(kMaxCount))},
            {"connection_in_flight_bytes", into<uint64_t>(config.connection_in_flight_bytes, read_bytes)},
            {"in_flight_bytes", into<uint64_t>(config.in_flight_bytes, read_bytes)},
            {"handshake_timeout_s", into<uint32_t>(config.handshake_timeout_s, read_count(kMaxTimeout))}})},
      {"memory", sub_table("memory", {{"store_bytes", into<uint64_t>(config.store_bytes, read_bytes)}})},
      {"trash",
       sub_table("trash", {{"retention_s", into<uint32_t>(config.trash_retention_s, read_retention)}})},
      {"fdb", [&](const toml::value& value) { return FdbTable(config.fdb, file_name).read(value); }},
  };
  try {
    std::istringstream stream{std::string(text)};
    const toml::value root = toml::parse(stream, file_name);
    RETURN_IF_ERROR(read_table(root.as_table(), keys, file_name, ""));
  } catch (const toml::exception& e) {
    return fail(Errc::invalid, fmt::format("{}:{}: {}", file_name, e.location().line(), one_line(e.what())));
  } catch (const std::exception& e) {
    return fail(Errc::invalid, fmt::format("{}: {}", file_name, one_line(e.what())));
  }
  return config;
}

Result<Config> load_config(const std::string& path) {
  const auto cannot_read = [&](int error) {
    return fail(error == ENOENT   ? Errc::not_found
                : error == EACCES ? Errc::permission
                                  : Errc::io,
                fmt::format("cannot read the configuration file {}: {}", path, std::strerror(error)));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"), &std::fclose);
  if (!file) return cannot_read(errno);
  std::string text;
  std::array<char, 4096> part{};
  while (const size_t count = std::fread(part.data(), 1, part.size(), file.get()))
    text.append(part.data(), count);
  if (std::ferror(file.get()) != 0) return cannot_read(errno);
  return parse_config(text, path);
}

}  // namespace fdbnbd::config
