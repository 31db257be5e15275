module Ctkd.Fs.Tests.TextTableTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.App

let private table: Table = {
    Caption = ""
    Header = [ "run"; "top-1 %"; "best top-1 %"; "top-5 %"; "test loss"; "T" ]
    Rows = [
        [ "teacher"; "98.27"; "98.33 (epoch 7)"; "100.00"; "0.0614"; "-" ]
        [ "ctkd-instance"; "89.98"; "90.26 (epoch 43)"; "99.83"; "0.3002"; "11.84" ]
    ]
}

let private longest (lines: string list) : int = lines |> List.map String.length |> List.max

let tests =
    testList "TextTable" [
        test "a terminal of 80 or 120 columns shows a table with borders, one of 30 or 60 a block for each row" {
            for columns, expected in
                [
                    30, TableLayout.Blocks
                    60, TableLayout.Blocks
                    75, TableLayout.Blocks
                    76, TableLayout.Bordered
                    80, TableLayout.Bordered
                    120, TableLayout.Bordered
                ] do
                Must.equal expected (TextTable.layout true (Some columns) table)
        }

        test "one column of text wraps within borders while it keeps 24 columns" {
            let name = String.replicate 60 "x"
            let long = { table with Header = [ "recipe"; "top-1 %" ]; Rows = [ [ name; "70.66" ] ] }
            Must.equal 0 (TextTable.wrapping long)
            Must.equal TableLayout.Bordered (TextTable.layout true (Some 38) long)
            Must.equal TableLayout.Blocks (TextTable.layout true (Some 37) long)
        }

        test "without borders columns need less room, and a file or a pipe has columns however wide" {
            Must.equal TableLayout.Blocks (TextTable.layout false (Some 66) table)
            Must.equal TableLayout.Aligned (TextTable.layout false (Some 67) table)
            Must.equal TableLayout.Aligned (TextTable.layout false None table)
            Must.equal TableLayout.Aligned (TextTable.layout true None table)
        }

        test "on 30 columns each value stands beside its label, or below it where both have no room" {
            Must.equal
                [
                    "run:          teacher"
                    "top-1 %:      98.27"
                    "best top-1 %: 98.33 (epoch 7)"
                    "top-5 %:      100.00"
                    "test loss:    0.0614"
                    "T:            -"
                    ""
                    "run:          ctkd-instance"
                    "top-1 %:      89.98"
                    "best top-1 %: 90.26 (epoch 43)"
                    "top-5 %:      99.83"
                    "test loss:    0.3002"
                    "T:            11.84"
                ]
                (TextTable.blocks 30 table)

            Must.equal [ "best top-1 %:"; "  98.33 (epoch 7)" ] (TextTable.blocks 20 table).[2..3]
        }

        test "no line of a block is longer than the terminal, and no word is lost" {
            let text =
                "a teacher's weights: a checkpoint, a run's folder, or a/very/long/path/of/sixty/letters/without/a/space"

            let wide = { table with Rows = [ [ text ]; [ "温度"; text ] ] }

            for columns in [ 30; 60; 80; 120 ] do
                let lines = TextTable.blocks columns wide
                Must.lie 1 columns (longest lines)
                let letters (text: string) = text.Replace(" ", "").Replace("\n", "")
                Must.contain (letters text) (letters (String.concat "" lines))
        }

        test "aligned columns set numbers flush right and count wide characters twice" {
            let lines =
                TextTable.aligned {
                    table with
                        Header = [ "run"; "T" ]
                        Rows = [ [ "温度"; "4.00" ]; [ "a"; "-" ] ]
                }

            Must.equal [ "run      T"; "温度  4.00"; "a        -" ] lines
        }

        test "short rows are filled with empty cells" {
            let short = { table with Rows = [ [ "begun" ] ] }
            Must.equal [ "run:          begun"; "top-1 %:" ] (TextTable.blocks 30 short).[0..1]
            Must.equal "begun" (TextTable.aligned short).[1]
        }

        test "the terminal tells its width; COLUMNS counts where it does not; else it is 80" {
            Must.equal 120 (TextTable.width 120 "30")
            Must.equal 30 (TextTable.width 0 "30")

            Must.equal 80 (TextTable.width 0 null)

            for columns in [ ""; "0"; "-5"; "wide"; "3e1" ] do
                Must.equal 80 (TextTable.width 0 columns)
        }
    ]
