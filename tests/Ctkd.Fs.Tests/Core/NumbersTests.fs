module Ctkd.Fs.Tests.NumbersTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

/// The value that was read.
let private ok (result: Result<'T, string>) : 'T =
    match result with
    | Ok value -> value
    | Error reason -> failtest reason

let private refused (reason: string) (result: Result<'T, string>) : unit =
    match result with
    | Ok value -> failtest $"%A{value} was read"
    | Error given -> Must.contain reason given

let tests =
    testList "Numbers" [
        testProperty "every number is read back from its own text, and every list from its own items"
        <| forAll
            (many 5 (uniform -1e6 1e6))
            (fun numbers ->
                let texts = numbers |> Array.map string
                Must.equal (Array.toList numbers) (texts |> Array.toList |> Numbers.all Numbers.read |> ok)

                for between in [ ","; " "; ", "; "  " ] do
                    let text =
                        String.Join(
                            between,
                            texts |> Array.map (fun t -> if t.Contains '.' || t.Contains 'E' then t else t + ".0")
                        )

                    Must.equal (Array.toList numbers) (ok (Numbers.readList text))
                    Must.equal (Array.toList numbers) (ok (Numbers.readList $"[{text}]"))
            )

        testProperty "a decimal comma is never read, and its refusal gives both readings"
        <| forAll
            (Gen.zip (Gen.choose (0, 999)) (Gen.choose (0, 999_999)))
            (fun (whole, part) ->
                let text = $"{whole},{part}"
                let thousands = float $"{whole}{part}" |> string

                for result in [ Numbers.read text; Numbers.readWhole text |> Result.map float ] do
                    refused $"{whole}.{part} with a decimal comma, " result
                    refused $", {thousands} with a thousands separator" result

                refused
                    $"'{text}' is {whole}.{part} with a decimal comma, and two numbers otherwise"
                    (Numbers.readList text)
            )

        test "what is no finite number is refused with the reason" {
            for text in [ ""; " "; "x"; "1 2"; "0x10"; "1_000"; "1'000"; "--1"; "1e"; "1,2,x"; "٣"; ","; "." ] do
                refused "not a number" (Numbers.read text)
                refused "not a number" (Numbers.readWhole text)

            for text in [ "nan"; "Infinity"; "-Infinity"; "1e999" ] do
                refused "not finite" (Numbers.read text)

            for text, meant in
                [
                    "1,000.5", "1000.5"
                    "1.000,5", "1000.5"
                    "1,000,000", "1000000"
                    "1.000.000", "1000000"
                    ",5", ".5"
                ] do
                refused $"no thousands separator it is {meant}" (Numbers.read text)

            refused "5.0e-4 with a decimal comma, 0.005 with a thousands separator" (Numbers.read "5,0e-4")
            refused "'9,0e-1' is 9.0e-1 with a decimal comma, and two numbers otherwise" (Numbers.readList "9,0e-1")
            refused "not a whole number" (Numbers.readWhole "1.5")
            refused "a whole number is written 30" (Numbers.readWhole "30.0")
            refused "a whole number is written 100" (Numbers.readWhole "1e2")
            refused "out of range" (Numbers.readWhole "99999999999")
            refused "'' is not a number" (Numbers.readList "1.5,,2")
            refused "'x' is not a number" (Numbers.readList "1 x 2")
        }

        test "an empty list has no items, also in brackets" {
            for text in [ ""; "  "; "[]"; "[ ]" ] do
                Must.equal [] (Numbers.items text)
                Must.equal (Ok []) (Numbers.readList text)
        }
    ]
