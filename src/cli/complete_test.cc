#include "cli/complete.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <map>
#include <optional>

#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/shell_words.h"

namespace fdbnbd::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;

class FakeNames final : public NameSource {
 public:
  std::vector<volume::VolumeInfo> volumes() override {
    volume::VolumeInfo a;
    a.name = "a";
    a.snapshots = {{.name = "mon"}, {.name = "tue"}};
    a.labels = {{"owner", "db"}};
    volume::VolumeInfo b;
    b.name = "b c";
    b.snapshots = {{.name = "it's"}};
    return {a, b};
  }
  std::vector<volume::TrashEntry> trash() override {
    return {{.name = "old", .id = 1}, {.name = "twice", .id = 2}, {.name = "twice", .id = 3}};
  }
  std::vector<volume::GroupInfo> groups() override {
    return {{.name = "g", .members = {"a"}, .snapshots = {{.name = "mon"}}}};
  }
};

// The program's own command line.
class CompleteTest : public ::testing::Test {
 protected:
  CompleteTest() {
    app_.add_option("--store", context_.store_text, "Where the volumes are: somewhere");
    app_.add_option("--config", context_.config_path, "The configuration file");
    add_volume_commands(app_, context_);
    add_trash_commands(app_, context_);
    add_property_commands(app_, context_);
    add_snapshot_commands(app_, context_);
    add_group_commands(app_, context_);
    add_transfer_commands(app_, context_);
    add_migrate_command(app_, context_);
    add_backup_commands(app_, context_);
    add_help_commands(app_, context_);
  }

  Completion completion(const std::vector<std::string>& words, const std::string& current = "") {
    return complete(read_command_line(app_, words), current, names_);
  }
  std::vector<std::string> texts(const std::vector<std::string>& words, const std::string& current = "") {
    std::vector<std::string> texts;
    for (const Candidate& candidate : completion(words, current).candidates) texts.push_back(candidate.text);
    return texts;
  }

  Context context_;
  CLI::App app_{"A program", "fdb-nbd"};
  FakeNames names_;
};

TEST_F(CompleteTest, VerbsComeFirstAndThoseBelowThemNext) {
  EXPECT_THAT(texts({}), IsSupersetOf({"create", "trash", "help"}));
  EXPECT_THAT(texts({"trash"}), ElementsAre("ls", "restore", "purge"));
  EXPECT_THAT(texts({"--store", "trash", "label"}), ElementsAre("set", "rm", "ls"));
  EXPECT_THAT(texts({"fly"}), IsEmpty());
  EXPECT_EQ(completion({"quota"}).candidates.front(),
            (Candidate{"set", "Bound what a volume uses, also while it is in use"}));
}

TEST_F(CompleteTest, FlagsAreThoseOfTheVerbAndOfTheProgram) {
  EXPECT_THAT(texts({"trash", "ls"}, "-"), IsSupersetOf({"--json", "--help", "--store"}));
  EXPECT_THAT(texts({"trash", "restore"}, "--"), Not(Contains("--json")));
  EXPECT_THAT(texts({"trash", "restore", "--"}, "-"), ElementsAre("old", "2", "3"));
}

TEST_F(CompleteTest, ArgumentsAreWhatTheVerbTakes) {
  EXPECT_THAT(texts({"resize"}), ElementsAre("a", "b c"));
  EXPECT_THAT(texts({"resize", "a"}), IsEmpty());
  EXPECT_THAT(texts({"info"}), ElementsAre("a", "a@mon", "a@tue", "b c", "b c@it's"));
  EXPECT_THAT(texts({"rollback", "--disconnect"}), ElementsAre("a@mon", "a@tue", "b c@it's"));
  EXPECT_THAT(texts({"create"}), IsEmpty());
  EXPECT_THAT(texts({"diff", "a@mon"}), ElementsAre("@mon", "@tue"));
  EXPECT_THAT(texts({"export-diff", "a@tue", "--from"}), ElementsAre("mon", "tue"));
  EXPECT_THAT(texts({"label", "rm", "a"}), ElementsAre("owner"));
  EXPECT_THAT(texts({"trash", "purge"}), ElementsAre("old", "2", "3"));
  EXPECT_THAT(texts({"group", "add", "g"}), ElementsAre("a", "b c"));
  EXPECT_THAT(texts({"group", "add", "g", "a"}), ElementsAre("b c"));
  EXPECT_THAT(texts({"group", "rollback"}), ElementsAre("g@mon"));
  EXPECT_THAT(texts({"help"}), Contains("trash"));
  EXPECT_THAT(texts({"help", "group"}), Contains("rollback"));
  EXPECT_THAT(texts({"completion"}), ElementsAre("bash", "zsh", "fish"));
  EXPECT_TRUE(completion({"import"}).takes_files);
  EXPECT_TRUE(completion({"export", "a"}).takes_files);
  EXPECT_FALSE(completion({"info"}).takes_files);
}

TEST_F(CompleteTest, ValuesOfFlagsAreKnown) {
  EXPECT_THAT(texts({"create", "--compression"}), ElementsAre("none", "lz4", "zstd"));
  EXPECT_THAT(texts({"create"}, "--compression=l"),
              ElementsAre("--compression=none", "--compression=lz4", "--compression=zstd"));
  EXPECT_TRUE(completion({"--config"}).takes_files);
  EXPECT_THAT(texts({"--store"}), Contains("rocksdb:"));
  EXPECT_TRUE(completion({"--store"}).goes_on);
  EXPECT_TRUE(completion({"--store"}, "rocksdb:/v").takes_files);
  EXPECT_THAT(texts({"import", "--from-fdb-nbd-py", "cluster", "disk"}), IsEmpty());
}

TEST_F(CompleteTest, ANewSnapshotsNameIsTheUsersOwn) {
  EXPECT_THAT(texts({"snap"}), ElementsAre("a@", "b c@"));
  EXPECT_TRUE(completion({"snap"}).goes_on);
  EXPECT_THAT(texts({"snap", "a@x"}), ElementsAre("a@", "b c@"));
  EXPECT_THAT(texts({"group", "snap"}), ElementsAre("g@"));
}

TEST_F(CompleteTest, TheStoreIsTheOneOnTheCommandLine) {
  using Options = std::map<std::string, std::string>;
  EXPECT_EQ(read_command_line(app_, {"--store", "memory:", "ls"}).options, (Options{{"--store", "memory:"}}));
  EXPECT_EQ(read_command_line(app_, {"ls", "--config=/c"}).options, (Options{{"--config", "/c"}}));
}

// What bash gets for a word that is typed like this: a stem that it leaves alone, and the word with it.
std::string bash_answer(const std::string& stem, const std::string& typed,
                        const std::vector<std::string>& candidates) {
  const auto call = read_completion_call({"bash", stem, "info", typed});
  if (!call) return call.error().what;
  EXPECT_THAT(call->words, ElementsAre("info"));
  Completion completion;
  for (const std::string& text : candidates) completion.candidates.push_back({text, "told"});
  return completion_answer(*call, completion);
}

TEST(Completion, BashGetsWhatStandsBehindItsLastWord) {
  EXPECT_EQ(bash_answer("", "b", {"a", "b c", "b@x"}), ":\nb\\ c\nb@x\n");
  EXPECT_EQ(bash_answer("b\\ c", "b\\ c@i", {"a@i", "b c@it's"}), ":\n@it\\'s\n");
  EXPECT_EQ(bash_answer("", "'b ", {"b c", "b it's"}), ":\nb c\nb it'\\''s\n");
  EXPECT_EQ(bash_answer("", "\"b ", {"b $c"}), ":\nb \\$c\n");
}

TEST(Completion, OtherShellsGetEverythingWithItsDescription) {
  const auto call = read_completion_call({"words", "info", "x"});
  ASSERT_TRUE(call.has_value());
  Completion completion{.candidates = {{"a"}, {"--json", "As JSON"}}, .takes_files = true, .goes_on = true};
  EXPECT_EQ(completion_answer(*call, completion), ": files on\na\n--json\tAs JSON\n");
}

TEST(Completion, CallsThatNoScriptMakesAreRefused) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, {"words"}, {"bash"}, {"bash", ""}, {"tcsh", ""}})
    EXPECT_EQ(read_completion_call(arguments).error().code, Errc::invalid);
}

TEST(Completion, ThereIsAScriptForEachShell) {
  for (const char* shell : {"bash", "zsh", "fish"}) EXPECT_TRUE(completion_script(shell).has_value());
  EXPECT_EQ(completion_script("tcsh").error().code, Errc::invalid);
}

TEST(ShellWords, QuotesAndBackslashesAreReadAsBashDoes) {
  const auto text = [](std::string_view typed) { return read_shell_word(typed).text; };
  EXPECT_EQ(text("a\\ b"), "a b");
  EXPECT_EQ(text("'a \\b'"), "a \\b");
  EXPECT_EQ(text("\"a \\$ \\b\"c"), "a $ \\bc");
  EXPECT_EQ(text("a\\"), "a");
  EXPECT_EQ(read_shell_word("\"a b").open_quote, '"');
  EXPECT_EQ(read_shell_word("a'b c").open_quote, '\'');
  EXPECT_EQ(read_shell_word("'a'").open_quote, '\0');
}

TEST(ShellWords, WhatIsQuotedIsReadAsItWas) {
  const std::string text = "größe 2 $x `y` \"z\" it's \\ * ? [a] {b} (c) <d> & | ; # ~ ! ^";
  for (const char quote : {'\0', '"', '\''}) {
    const std::string typed = (quote == '\0' ? "" : std::string(1, quote)) + quote_for_shell(text, quote);
    EXPECT_EQ(read_shell_word(typed).text, text) << quote;
  }
}

}  // namespace
}  // namespace fdbnbd::cli
