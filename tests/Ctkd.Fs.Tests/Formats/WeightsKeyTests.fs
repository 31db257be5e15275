/// Which of several networks in a file is taken.
module Ctkd.Fs.Tests.WeightsKeyTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.TorchPickles

/// A network of two tensors, whose first byte is its number.
let private network (number: int) : string =
    let view = window (storage "ByteStorage" (string number) 1L) 0L [ 1L ] [ 1L ]
    dictionary [ "conv1.weight", view; "fc.weight", view ]

/// A file with a dictionary of networks by their keys, numbered from 1.
let private fileOf (contents: string) : byte[] = zipFile contents [ for i in 1..4 -> string i, [| byte i |] ]

let private keyed (keys: string list) : byte[] =
    keys |> List.mapi (fun i key -> key, network (i + 1)) |> dictionary |> fileOf

let private readAs (role: WeightsRole) (key: string) (bytes: byte[]) : Result<WeightsFile, Error> =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "w.pth")
        File.WriteAllBytes(path, bytes)
        WeightsFile.readAs role { File = path; Inner = ""; Key = key }
    )

let private number (file: WeightsFile) : int = int file.Found.Tensors.Head.Bytes.Span[0]

let private taken role (keys: string list) : int = keyed keys |> readAs role "" |> Error.orRaise |> number

let tests =
    testList "WeightsKey" [
        test "the teacher's weights are found, alone and beside the student's" {
            for role in [ WeightsRole.Any; WeightsRole.Teacher ] do
                Must.equal 1 (taken role [ "teacher" ])

            Must.equal 2 (taken WeightsRole.Teacher [ "student"; "teacher" ])
            Must.equal 2 (taken WeightsRole.Teacher [ "model"; "teacher" ])
            Must.equal 1 (taken WeightsRole.Any [ "student"; "teacher" ])
            Must.equal 1 (taken WeightsRole.Teacher [ "student" ])
        }

        test "an average of the weights is taken only where nothing else is, and is named" {
            let both = [ "state_dict_ema"; "state_dict" ]
            Must.equal 2 (taken WeightsRole.Any both)
            Must.equal 1 (taken WeightsRole.Any [ "state_dict_ema" ])
            let file = keyed both |> readAs WeightsRole.Any "" |> Error.orRaise
            let note = WeightsFile.notes file.Found file |> Must.single
            Must.contain "under 'state_dict'" note
            Must.contain "'state_dict_ema' (2 tensors)" note
            Must.contain "w.pth#state_dict_ema" note
        }

        test "one network needs no note, whatever optimizers are beside it" {
            let contents = dictionary [ "net", network 1; "optimizer", dictionary [ "state", network 2 ] ]
            let file = fileOf contents |> readAs WeightsRole.Any "" |> Error.orRaise
            Must.beEmpty (WeightsFile.notes file.Found file)
            Must.equal [ "optimizer", 2 ] file.Found.Others
        }

        test "#KEY chooses, also nested, by prefix, and of networks that no key usually has" {
            let nested = dictionary [ "a", dictionary [ "b.c", network 1 ]; "other", network 2 ] |> fileOf
            Must.equal 1 (readAs WeightsRole.Any "a.b.c" nested |> Error.orRaise |> number)
            Must.equal 1 (readAs WeightsRole.Any "a" nested |> Error.orRaise |> number)
            Must.equal 2 (readAs WeightsRole.Any "other" nested |> Error.orRaise |> number)
            let view number = window (storage "ByteStorage" (string number) 1L) 0L [ 1L ] [ 1L ]
            let flat = dictionary [ "teacher.w", view 1; "student.w", view 2; "embed.w", view 3 ] |> fileOf
            Must.equal 3 (readAs WeightsRole.Any "embed" flat |> Error.orRaise |> number)
            Must.equal 2 (readAs WeightsRole.Any "" flat |> Error.orRaise |> number)
            Must.equal 1 (readAs WeightsRole.Teacher "" flat |> Error.orRaise |> number)
        }

        test "an unknown key lists those that are there, the nearest first" {
            let error = keyed [ "student"; "teacher" ] |> readAs WeightsRole.Any "techer" |> errorOf
            Must.equal Usage error.Kind
            Must.contain "has no 'techer'; it holds 'teacher', 'student'" error.What
            Must.contain "w.pth#teacher" error.Next
        }

        testEach
            "lists and tuples around weights, and unusual keys, are looked through"
            [ "](NETe"; "(NETK\003t"; "(K\003}Vmodel\nNETst"; "}Vmy_net\nNETs"; "}Va\n}Vb\nNETss" ]
            (fun (contents: string) ->
                let file = contents.Replace("NET", network 1) |> fileOf |> readAs WeightsRole.Any ""
                Must.equal 1 (file |> Error.orRaise |> number)
            )
    ]
