#include "config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "config/store_url.h"

namespace fdbnbd::config {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;
using ::testing::StartsWith;

std::string error_of(std::string_view text) {
  const auto config = parse_config(text, "file.toml");
  EXPECT_FALSE(config.has_value());
  if (config) return {};
  EXPECT_EQ(config.error().code, Errc::invalid);
  EXPECT_EQ(config.error().what.find('\n'), std::string::npos) << config.error().what;
  return config.error().what;
}

TEST(ConfigFile, EmptyFileSetsNothing) {
  const auto config = parse_config("", "file.toml");
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(*config, Config{});
}

TEST(ConfigFile, EveryKeyIsRead) {
  const auto config = parse_config(R"(
# a comment
store = "rocksdb:/srv/volumes"
listen = ["tcp://127.0.0.1:10809", "unix:/run/fdb-nbd/nbd.sock"]
volumes = ["example=1G", "a=b=512"]
control = "/run/fdb-nbd/control.sock"
insecure = true
tls = "off"
read_only = true
io_threads = 3
log_level = "warning"

[limits]
connections = 100
requests_per_connection = 64
connection_in_flight_bytes = "48M"
in_flight_bytes = 134217728
handshake_timeout_s = 3

[memory]
store_bytes = "1G"

[fdb]
library = "/opt/libfdb_c.so"
tls_cert_path = "/etc/cert.pem"
tls_key_path = "/etc/key.pem"
tls_ca_path = "/etc/ca.pem"
tls_password = "secret"
tls_verify_peers = "Check.Valid=1"
trace_enable = "/var/log/fdb"
trace_format = "json"
trace_log_group = "nbd"
trace_file_identifier = "a"
trace_roll_size = "10M"
trace_max_logs_size = 1000
external_client_directory = "/opt/clients"
external_client_library = ["/opt/b.so", "/opt/a.so"]
client_tmp_dir = "/var/tmp"
client_threads_per_version = 4

[fdb.knobs]
min_trace_severity = 20
some_ratio = 0.5
some_name = "x"
some_switch = true

[fdb.options]
disable_local_client = true
client_buggify_enable = false
trace_clock_source = "now"
client_buggify_section_fired_probability = 5
)",
                                   "file.toml");
  ASSERT_TRUE(config.has_value()) << config.error().what;
  EXPECT_EQ(config->store, "rocksdb:/srv/volumes");
  ASSERT_EQ(config->listen->size(), 2U);
  EXPECT_EQ(to_string((*config->listen)[0]), "tcp://127.0.0.1:10809");
  EXPECT_EQ(to_string((*config->listen)[1]), "unix:/run/fdb-nbd/nbd.sock");
  ASSERT_EQ(config->volumes->size(), 2U);
  EXPECT_EQ((*config->volumes)[0], (VolumeSpec{.name = "example", .size_bytes = 1ULL << 30}));
  EXPECT_EQ((*config->volumes)[1], (VolumeSpec{.name = "a=b", .size_bytes = 512}));
  EXPECT_EQ(config->control, "/run/fdb-nbd/control.sock");
  EXPECT_EQ(config->insecure, true);
  EXPECT_EQ(config->tls, "off");
  EXPECT_EQ(config->read_only, true);
  EXPECT_EQ(config->handshake_timeout_s, 3U);
  EXPECT_EQ(config->io_threads, 3U);
  EXPECT_EQ(config->log_level, log::Level::warning);
  EXPECT_EQ(config->connections, 100U);
  EXPECT_EQ(config->requests_per_connection, 64U);
  EXPECT_EQ(config->connection_in_flight_bytes, 48ULL << 20);
  EXPECT_EQ(config->in_flight_bytes, 134217728U);
  EXPECT_EQ(config->store_bytes, 1ULL << 30);
  EXPECT_EQ(config->fdb.library, "/opt/libfdb_c.so");
  EXPECT_THAT(
      config->fdb.options,
      ElementsAre(Pair("client_buggify_section_fired_probability", "5"),
                  Pair("client_threads_per_version", "4"), Pair("client_tmp_dir", "/var/tmp"),
                  Pair("disable_local_client", ""), Pair("external_client_directory", "/opt/clients"),
                  Pair("external_client_library", "/opt/a.so"), Pair("external_client_library", "/opt/b.so"),
                  Pair("knob", "min_trace_severity=20"), Pair("knob", "some_name=x"),
                  Pair("knob", "some_ratio=0.5"), Pair("knob", "some_switch=true"),
                  Pair("tls_ca_path", "/etc/ca.pem"), Pair("tls_cert_path", "/etc/cert.pem"),
                  Pair("tls_key_path", "/etc/key.pem"), Pair("tls_password", "secret"),
                  Pair("tls_verify_peers", "Check.Valid=1"), Pair("trace_clock_source", "now"),
                  Pair("trace_enable", "/var/log/fdb"), Pair("trace_file_identifier", "a"),
                  Pair("trace_format", "json"), Pair("trace_log_group", "nbd"),
                  Pair("trace_max_logs_size", "1000"), Pair("trace_roll_size", "10485760")));
}

TEST(ConfigFile, WrongKeysOfFoundationDbAreNamedAndTheirValuesAreNot) {
  EXPECT_EQ(error_of("[fdb]\ntls_pasword = \"secret\"\n"), "file.toml:2: unknown key \"fdb.tls_pasword\"");
  EXPECT_EQ(error_of("[fdb]\n\nlibrary = 1\n"), "file.toml:3: key \"fdb.library\": expected a string");
  EXPECT_EQ(error_of("[fdb]\ntls_password = 1234567\n"),
            "file.toml:2: key \"fdb.tls_password\": expected a string");
  EXPECT_EQ(error_of("[fdb]\ntls_password = \"\"\n"),
            "file.toml:2: key \"fdb.tls_password\": expected a string that is not empty");
  EXPECT_THAT(error_of("[fdb]\ntrace_roll_size = \"lots\"\n"),
              StartsWith("file.toml:2: key \"fdb.trace_roll_size\""));
  EXPECT_THAT(error_of("[fdb]\nclient_threads_per_version = 0\n"),
              StartsWith("file.toml:2: key \"fdb.client_threads_per_version\""));
  EXPECT_THAT(error_of("[fdb]\nexternal_client_library = [\"\"]\n"),
              StartsWith("file.toml:2: key \"fdb.external_client_library\""));
  EXPECT_THAT(error_of("[fdb]\nknobs = \"a=1\"\n"), StartsWith("file.toml:2: key \"fdb.knobs\""));
  EXPECT_THAT(error_of("[fdb.knobs]\na = 1\nb = []\n"), StartsWith("file.toml:3: key \"fdb.knobs.b\""));
  EXPECT_EQ(error_of("[fdb.options]\na = 1\ntls_password = \"secret\"\n"),
            "file.toml:3: key \"fdb.options.tls_password\": use fdb.tls_password");
  EXPECT_EQ(error_of("[fdb.options]\nknob = \"a=1\"\n"),
            "file.toml:2: key \"fdb.options.knob\": use fdb.knobs");
  EXPECT_THAT(error_of("fdb = 3\n"), StartsWith("file.toml:1: key \"fdb\""));
}

char* nothing_set(const char*) {
  return nullptr;
}

StoreUrl cluster_with(std::vector<std::pair<std::string, std::string>> options) {
  return {.kind = StoreUrl::Kind::fdb, .path = "", .prefix = "", .options = std::move(options)};
}

TEST(FdbClient, AnOptionOfTheUrlBeatsTheSameOneOfTheFile) {
  const FdbClient file{.library = "/file.so",
                       .options = {{"knob", "a=1"}, {"knob", "b=1"}, {"trace_enable", "/file"}}};
  const FdbClient client = resolve_fdb_client(
      file, cluster_with({{"knob", "b=2"}, {"trace_enable", "/url"}, {"tls_password", "p"}}), nothing_set);
  EXPECT_EQ(client.library, "/file.so");
  EXPECT_THAT(client.options, ElementsAre(Pair("knob", "a=1"), Pair("knob", "b=2"),
                                          Pair("trace_enable", "/url"), Pair("tls_password", "p")));
}

TEST(FdbClient, TheEnvironmentBeatsTheFileAndIsLeftToWhoReadsIt) {
  static char set[] = "x";
  const auto environment = [](const char* name) -> char* {
    const std::string_view variable = name;
    const bool is_set = variable == "FDB_NBD_FDB_LIBRARY" || variable == "FDB_TLS_PASSWORD" ||
                        variable == "FDB_NETWORK_OPTION_TRACE_ENABLE";
    return is_set ? set : nullptr;
  };
  const FdbClient file{
      .library = "/file.so",
      .options = {{"tls_ca_path", "/ca"}, {"tls_password", "file"}, {"trace_enable", "/file"}}};
  const FdbClient client = resolve_fdb_client(file, cluster_with({{"trace_enable", "/url"}}), environment);
  EXPECT_EQ(client.library, "");
  EXPECT_THAT(client.options, ElementsAre(Pair("tls_ca_path", "/ca"), Pair("trace_enable", "/url")));
}

TEST(FdbClient, AnEmptyLibraryInTheEnvironmentIsNone) {
  static char empty[] = "";
  const auto environment = [](const char* name) -> char* {
    return std::string_view(name) == "FDB_NBD_FDB_LIBRARY" ? empty : nullptr;
  };
  const FdbClient file{.library = "/file.so", .options = {}};
  EXPECT_EQ(resolve_fdb_client(file, cluster_with({}), environment).library, "/file.so");
}

TEST(ConfigFile, ListenTakesOneString) {
  const auto config = parse_config("listen = \"tcp://[::1]:0\"\n", "file.toml");
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->listen->at(0),
            (net::Endpoint{.kind = net::Endpoint::Kind::tcp, .host = "::1", .port = 0, .path = {}}));
}

TEST(ConfigFile, UnknownKeyNamesFileLineAndKey) {
  EXPECT_EQ(error_of("store = \"memory:\"\n\nlisen = \"tcp://127.0.0.1:1\"\n"),
            "file.toml:3: unknown key \"lisen\"");
  EXPECT_EQ(error_of("[limits]\nconnections = 1\nconections = 2\n"),
            "file.toml:3: unknown key \"limits.conections\"");
  EXPECT_THAT(error_of("\n[limit]\nconnections = 1\n"), StartsWith("file.toml:2: unknown key \"limit\""));
}

TEST(ConfigFile, WrongValueNamesFileLineAndKey) {
  EXPECT_EQ(error_of("\nio_threads = \"two\"\n"),
            "file.toml:2: key \"io_threads\": expected a whole number from 1 to 256");
  EXPECT_THAT(error_of("io_threads = 0\n"), StartsWith("file.toml:1: key \"io_threads\""));
  EXPECT_THAT(error_of("io_threads = 257\n"), StartsWith("file.toml:1: key \"io_threads\""));
  EXPECT_THAT(error_of("store = 1\n"), StartsWith("file.toml:1: key \"store\": expected a string"));
  EXPECT_THAT(error_of("store = \"rocks:/x\"\n"), StartsWith("file.toml:1: key \"store\": \"rocks:/x\""));
  EXPECT_THAT(error_of("listen = [\"127.0.0.1:1\"]\n"), StartsWith("file.toml:1: key \"listen\""));
  EXPECT_THAT(error_of("listen = [1]\n"), StartsWith("file.toml:1: key \"listen\""));
  EXPECT_THAT(error_of("volumes = [\"a\"]\n"), StartsWith("file.toml:1: key \"volumes\""));
  EXPECT_THAT(error_of("insecure = 1\n"), StartsWith("file.toml:1: key \"insecure\""));
  EXPECT_THAT(error_of("tls = \"maybe\"\n"), StartsWith("file.toml:1: key \"tls\""));
  EXPECT_THAT(error_of("log_level = \"loud\"\n"), StartsWith("file.toml:1: key \"log_level\""));
  EXPECT_THAT(error_of("limits = 3\n"), StartsWith("file.toml:1: key \"limits\""));
  EXPECT_THAT(error_of("[memory]\nstore_bytes = \"lots\"\n"),
              StartsWith("file.toml:2: key \"memory.store_bytes\""));
  EXPECT_THAT(error_of("[memory]\nstore_bytes = -1\n"),
              StartsWith("file.toml:2: key \"memory.store_bytes\""));
}

TEST(ConfigFile, TextThatIsNotTomlNamesTheLine) {
  EXPECT_THAT(error_of("store = \"memory:\"\nthis is not toml\n"), StartsWith("file.toml:2: "));
  EXPECT_THAT(error_of("store = \"memory:\n"), StartsWith("file.toml:1: "));
  EXPECT_THAT(error_of("store = \"memory:\"\nstore = \"memory:\"\n"), StartsWith("file.toml:"));
  EXPECT_THAT(error_of(std::string_view("\0\xff\xfe", 3)), StartsWith("file.toml:"));
}

TEST(ConfigFile, MissingFileIsNotFound) {
  const auto config = load_config("/nonexistent/fdb-nbd.toml");
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().code, Errc::not_found);
  EXPECT_THAT(config.error().what, HasSubstr("/nonexistent/fdb-nbd.toml"));
}

TEST(ConfigFile, FilesAreLoadedWithTheirNameInErrors) {
  const auto directory =
      std::filesystem::temp_directory_path() / ("fdbnbd-config-" + std::to_string(::getpid()));
  std::filesystem::create_directory(directory);
  const std::string path = directory / "c.toml";
  std::ofstream(path) << "store = \"memory:\"\n";
  EXPECT_EQ(load_config(path)->store, "memory:");
  std::ofstream(path) << "x = 1\n";
  EXPECT_EQ(load_config(path).error().what, path + ":1: unknown key \"x\"");
  std::ofstream(path).close();
  EXPECT_EQ(*load_config(path), Config{});
  EXPECT_FALSE(load_config(directory).has_value());
  std::filesystem::remove_all(directory);
}

TEST(StoreUrl, EachSchemeIsParsedAndPrintedAgain) {
  using Kind = StoreUrl::Kind;
  const struct {
    std::string_view text;
    StoreUrl url;
    std::string_view printed;
  } cases[] = {
      {"rocksdb:/srv/a", {Kind::rocksdb, "/srv/a", ""}, "rocksdb:/srv/a"},
      {"rocksdb:relative/dir", {Kind::rocksdb, "relative/dir", ""}, "rocksdb:relative/dir"},
      {"rocksdb:", {Kind::rocksdb, "/default", ""}, "rocksdb:/default"},
      {"memory:", {Kind::memory, "", ""}, "memory:"},
      {"control:/run/c.sock", {Kind::control, "/run/c.sock", ""}, "control:/run/c.sock"},
      {"fdb:", {Kind::fdb, "", ""}, "fdb:"},
      {"fdb:/etc/fdb.cluster", {Kind::fdb, "/etc/fdb.cluster", ""}, "fdb:/etc/fdb.cluster"},
      {"fdb:?prefix=vols", {Kind::fdb, "", "vols"}, "fdb:?prefix=vols"},
      {"fdb:/c?prefix=v=w", {Kind::fdb, "/c", "v=w"}, "fdb:/c?prefix=v=w"},
      {"fdb:/c?knob=a=1&prefix=v&client_buggify_enable",
       {Kind::fdb, "/c", "v", {{"knob", "a=1"}, {"client_buggify_enable", ""}}},
       "fdb:/c?prefix=v&knob=a=1&client_buggify_enable"},
      {"fdb:?tls_password=secret",
       {Kind::fdb, "", "", {{"tls_password", "secret"}}},
       "fdb:?tls_password=..."},
  };
  for (const auto& c : cases) {
    const auto url = parse_store_url(c.text, "/default");
    ASSERT_TRUE(url.has_value()) << c.text;
    EXPECT_EQ(*url, c.url) << c.text;
    EXPECT_EQ(to_string(*url), c.printed);
  }
}

TEST(StoreUrl, EverythingElseIsInvalid) {
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {""sv, ":"sv, "rocksdb"sv, "/srv/a"sv, "Rocksdb:/a"sv, "memory:x"sv, "control:"sv, "fdb:?"sv,
        "fdb:?prefix="sv, "fdb:?=1"sv, "fdb:?Other=1"sv, "fdb:?prefix=a&"sv, "fdb:?prefix=a&prefix=b"sv,
        "fdb:?prefix=a/b"sv, "fdb:?prefix=\xff"sv, "rocksdb:a\0b"sv}) {
    const auto url = parse_store_url(text, "/default");
    ASSERT_FALSE(url.has_value()) << text;
    EXPECT_EQ(url.error().code, Errc::invalid) << text;
  }
}

TEST(StoreUrl, ErrorsShowNoValues) {
  for (const std::string_view text : {"fdb:?tls_password=secret&prefix=a/b", "fdb:?TLS_PASSWORD=secret"}) {
    const auto url = parse_store_url(text, "/default");
    ASSERT_FALSE(url.has_value()) << text;
    EXPECT_THAT(url.error().what, Not(HasSubstr("secret")));
  }
}

TEST(StoreUrl, DefaultDirectoryFollowsUserAndEnvironment) {
  EXPECT_EQ(default_store_directory(true, "/x", "/h"), "/var/lib/fdb-nbd");
  EXPECT_EQ(default_store_directory(false, "/x", "/h"), "/x/fdb-nbd");
  EXPECT_EQ(default_store_directory(false, "", "/h"), "/h/.local/state/fdb-nbd");
  EXPECT_EQ(default_store_directory(false, nullptr, "/h"), "/h/.local/state/fdb-nbd");
  EXPECT_EQ(default_store_directory(false, nullptr, nullptr).error().code, Errc::invalid);
}

TEST(VolumeSpec, NeedsNameAndSize) {
  EXPECT_EQ(parse_volume_spec("a=1K"), (VolumeSpec{.name = "a", .size_bytes = 1024}));
  for (const auto* text : {"", "a", "=1G", "a=", "a=x", "a=-1"}) {
    EXPECT_EQ(parse_volume_spec(text).error().code, Errc::invalid) << text;
  }
}

}  // namespace
}  // namespace fdbnbd::config
